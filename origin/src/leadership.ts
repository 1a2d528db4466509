/** Who may publish: of the origins that share their data, one at a time. The others read, admit newcomers and take reports in. */
export interface Leadership {
  /** Whether this origin may publish now. */
  readonly isHeld: boolean;
  /** Lets another origin publish. Releasing it again does nothing. */
  release(): Promise<void>;
}
