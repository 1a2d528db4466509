import { type ErrorKind, SitecastError, systemCodeOf } from '@sitecast/shared/errors';

interface Cause {
  code: `SITECAST_SLOT_${string}`;
  what: string;
  kind: ErrorKind;
}

const MISSING: Cause = { code: 'SITECAST_SLOT_MISSING', what: 'is not there', kind: 'failed' };
const FULL: Cause = {
  code: 'SITECAST_SLOT_FULL',
  what: 'has no space left: make room on its file system, and it goes on by itself',
  kind: 'noSpace',
};
const READ_ONLY: Cause = { code: 'SITECAST_SLOT_READ_ONLY', what: 'is read-only', kind: 'failed' };

/** What the system's errors mean for a slot. All others are SITECAST_SLOT_FAILED. */
const CAUSES: Record<string, Cause> = {
  ENOSPC: FULL,
  EDQUOT: FULL,
  EFBIG: {
    code: 'SITECAST_SLOT_TOO_SMALL',
    what: 'lies on a file system that takes no file of this length',
    kind: 'failed',
  },
  EROFS: READ_ONLY,
  EPERM: READ_ONLY,
  EACCES: { ...READ_ONLY, what: "is read-only, or may not be opened by this agent's user" },
  EBUSY: { code: 'SITECAST_SLOT_BUSY', what: 'is mounted, or in use by something else', kind: 'failed' },
  ETXTBSY: { code: 'SITECAST_SLOT_BUSY', what: 'is being executed', kind: 'failed' },
  ENOENT: MISSING,
  EEXIST: { ...MISSING, what: 'has appeared only just now' },
  // ENXIO, ENODEV: a device node without its device, which was removed or isn't there yet.
  ENXIO: { ...MISSING, what: 'is the name of a device that is not there' },
  ENODEV: { ...MISSING, what: 'is the name of a device that is not there' },
  ENOMEDIUM: { ...MISSING, what: 'is a device without a medium' },
  // ESTALE: a network file system disappeared, and came back as another one.
  ESTALE: MISSING,
  ENOTDIR: {
    code: 'SITECAST_SLOT_UNUSABLE',
    what: 'leads through something that is no directory',
    kind: 'badInput',
  },
  ELOOP: {
    code: 'SITECAST_SLOT_UNUSABLE',
    what: 'is a symbolic link that leads in a circle',
    kind: 'badInput',
  },
  EIO: { code: 'SITECAST_SLOT_UNRELIABLE', what: 'lies on a medium that fails (EIO)', kind: 'failed' },
};

/** @param operation that failed: `open`, `write` … */
export function slotError(path: string, operation: string, cause: unknown): SitecastError {
  if (cause instanceof SitecastError) return cause;
  const system = systemCodeOf(cause);
  const { code, what, kind } = CAUSES[system] ?? {
    code: 'SITECAST_SLOT_FAILED' as const,
    what: `fails to ${operation} (${system === '' ? String(cause) : system})`,
    kind: 'failed' as const,
  };
  return new SitecastError(kind, code, `the slot ${path} ${what}`, {
    data: { path, operation, system },
    cause,
  });
}

/** There is nothing, and no file may be created. The update waits for the slot. */
export function missingSlot(path: string, what: string): SitecastError {
  return of({ ...MISSING, what }, path);
}

/** The slot is in use. The update waits for it. */
export function busySlot(path: string, what: string): SitecastError {
  return of({ code: 'SITECAST_SLOT_BUSY', what, kind: 'failed' }, path);
}

/** A wrong setting, or a link that leads elsewhere than before. */
export function overlappingSlot(path: string, other: string): SitecastError {
  const what = `is the slot ${other} too, or one lies in the other: nothing is written`;
  return of({ code: 'SITECAST_SLOT_OVERLAP', what, kind: 'failed' }, path);
}

export function unusableSlot(path: string): SitecastError {
  return of(
    { code: 'SITECAST_SLOT_UNUSABLE', what: 'is neither a file nor a block device', kind: 'badInput' },
    path,
  );
}

function of({ code, what, kind }: Cause, path: string): SitecastError {
  return new SitecastError(kind, code, `the slot ${path} ${what}`, { data: { path } });
}
