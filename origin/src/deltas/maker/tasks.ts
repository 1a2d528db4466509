/** What the maker's process is asked to do, one task at a time. */
export type MakerTask =
  /** Forgets all samples, and expects those of a base of this length. */
  | { readonly name: 'begin'; readonly baseBytes: number }
  /** Takes samples of the base's bytes from `offset` on. */
  | { readonly name: 'sample'; readonly offset: number; readonly bytes: Uint8Array }
  /** Where in the base the content of these target bytes lies: offsets, rising. */
  | { readonly name: 'find'; readonly bytes: Uint8Array }
  /** The patch that makes `target` from `base`; none where it would be as long as `worthBytes`, or longer. */
  | {
      readonly name: 'patch';
      readonly base: Uint8Array;
      readonly target: Uint8Array;
      readonly worthBytes: number;
    };

/** What each task gives. */
export interface MakerResults {
  begin: undefined;
  sample: undefined;
  find: Float64Array;
  patch: Uint8Array | undefined;
}

export type MakerReply = { readonly result: MakerResults[MakerTask['name']] } | { readonly error: string };
