import { SitecastError } from '../../errors.ts';
import { findMismatch, TrustedSet, type VerifySignature } from '../../trust/index.ts';
import { type Announcement, readFileName } from './announcement.ts';

/**
 * What happens to a message. `accept`: it is passed on. `ignore`: it isn't. `reject`: it isn't, and the neighbour's score is lowered.
 */
export type Verdict = 'accept' | 'ignore' | 'reject';

/** The metadata that is trusted at the moment. */
export interface TrustedNow {
  /** The newest root, as it was received. Its keys sign the other two. */
  readonly root: Uint8Array;
  /** The newest timestamp and snapshot that were verified, as they were received. */
  readonly timestamp: Uint8Array | undefined;
  readonly snapshot: Uint8Array | undefined;
}

interface JudgeOptions {
  readonly trusted: () => TrustedNow;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** Verifies signatures. It should cache its results: most of these are verified again later. */
  readonly verify?: VerifySignature | undefined;
  /** Called when a message names an unknown root, which should be fetched. */
  readonly onNewerRoot?: (version: number) => void;
}

/** Errors of valid messages that bring nothing new, or whose sender is behind or ahead. They don't lower the sender's score. */
const HARMLESS = ['SITECAST_METADATA_ROLLBACK', 'SITECAST_METADATA_EXPIRED', 'SITECAST_ROLE_DROPPED'];

/**
 * Judges announcements only by signed metadata; it doesn't matter which neighbour sent one. Nothing becomes trusted here: a gateway that
 * acts on an accepted announcement verifies it again, with its TUF client, in the order of the specification.
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
      // Signed by keys that a later root has revoked. The sender doesn't know that root yet.
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
