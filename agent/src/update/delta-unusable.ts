/** Thrown where a delta turns out to be unusable: the update is planned again without it. */
export class DeltaUnusable extends Error {
  override readonly name = 'DeltaUnusable';
  readonly code: string;
  /** Whether the recipe itself is wrong: then it isn't tried again. Otherwise, only its patches can't be fetched, or cost too much. */
  readonly hasFailed: boolean;

  constructor(code: string, message: string, { hasFailed, cause }: { hasFailed: boolean; cause?: unknown }) {
    super(message, { cause });
    this.code = code;
    this.hasFailed = hasFailed;
  }
}

export function timeUsedUp(cause?: unknown): DeltaUnusable {
  const message = 'applying the patches of this release has taken all of --max-apply-time';
  return new DeltaUnusable('SITECAST_APPLY_TIME', message, { hasFailed: false, cause });
}

export function notKept(why: string, cause?: unknown): DeltaUnusable {
  const message = `patches can't be kept in the data directory, so chunks are fetched instead: ${why}`;
  return new DeltaUnusable('SITECAST_PATCHES_NOT_KEPT', message, { hasFailed: false, cause });
}

export function deadly(deaths: number): DeltaUnusable {
  const message = `the agent has ended ${deaths} times in the middle of applying these patches`;
  return new DeltaUnusable('SITECAST_PATCH_DEADLY', message, { hasFailed: true });
}
