import { SitecastError } from '../../errors.ts';
import { findMismatch, TrustedSet, type VerifySignature } from '../../trust/index.ts';
import { type Announcement, readFileName } from './announcement.ts';

/**
 * What becomes of a message: `accept` passes it on; `ignore` doesn't pass it on; `reject` doesn't, and counts against the neighbour
 * that it came from.
 */
export type Verdict = 'accept' | 'ignore' | 'reject';

/** What is trusted at the moment. */
export interface TrustedNow {
  /** The newest root, as it came. Its keys sign the other two. */
  readonly root: Uint8Array;
  /** The newest timestamp and snapshot that were verified, as they came. */
  readonly timestamp: Uint8Array | undefined;
  readonly snapshot: Uint8Array | undefined;
}

interface JudgeOptions {
  readonly trusted: () => TrustedNow;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** Verifies signatures. It should remember its results: most of what is read here is read again. */
  readonly verify?: VerifySignature | undefined;
  /** A message names a root that isn't known here: it should be fetched. */
  readonly onNewerRoot?: (version: number) => void;
}

/** The message is right, but brings nothing new, or its sender is behind or ahead. That doesn't count against the sender. */
const HARMLESS = ['SITECAST_METADATA_ROLLBACK', 'SITECAST_METADATA_EXPIRED', 'SITECAST_ROLE_DROPPED'];

/**
 * Judges announcements by signed metadata alone; which neighbour sent one doesn't matter. Nothing becomes trusted here: a gateway
 * that acts on an accepted announcement verifies it once more, with its TUF client, in the order of the specification.
 */
export function judge({
  trusted,
  now,
  verify,
  onNewerRoot,
}: JudgeOptions): (announcement: Announcement) => Verdict {
  return announcement => {
    const { root, timestamp, snapshot } = trusted();
    const set = new TrustedSet(root, now(), verify);
    const ours = set.root.signed.version;
    if (announcement.rootVersion > ours) {
      onNewerRoot?.(announcement.rootVersion);
      return 'ignore';
    }
    if (timestamp) set.restoreTimestamp(timestamp);
    if (snapshot) set.restoreSnapshot(snapshot);
    try {
      if (!set.updateTimestamp(announcement.timestamp)) return 'ignore';
      return areNamedBySignedChain(set, announcement) ? 'accept' : 'reject';
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      if (HARMLESS.includes(error.code)) return 'ignore';
      // Signed by keys that a later root has revoked: the sender doesn't know that root yet.
      return announcement.rootVersion < ours ? 'ignore' : 'reject';
    }
  };
}

/** Whether each file that came along is the one that timestamp and snapshot name by its hash. */
function areNamedBySignedChain(set: TrustedSet, { files }: Announcement): boolean {
  for (const [name, bytes] of files) {
    const { role, version } = readFileName(name);
    if (role !== 'snapshot') continue;
    if (version !== set.snapshotFile.version) return false;
    set.updateSnapshot(bytes);
  }
  return [...files].every(([name, bytes]) => {
    const { role, version } = readFileName(name);
    if (role === 'snapshot') return true;
    if (!set.isSnapshotCurrent) return false;
    const listed = set.targetsFile(role);
    return (
      listed?.version === version && listed.hashes !== undefined && findMismatch(bytes, listed) === undefined
    );
  });
}
