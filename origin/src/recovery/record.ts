import type { AuditAction } from '@sitecast/shared/audit';
import type { AuditLog } from '../audit/audit.ts';
import { ORIGIN } from '../rollouts/controller/effects.ts';
import type { LostRevocations, RevocationStore } from './revocations.ts';

/** The last entry of the restored audit log; undefined if the log is empty. */
export interface LogEnd {
  seq: number;
  hash: string;
  at: string;
}

/** What a recovery writes into the audit log that the backup brought. */
export type RecoveryLog = AuditLog;

export async function endOf(log: RecoveryLog): Promise<LogEnd | undefined> {
  const [last] = (await log.find(log.head.seq - 1, 1)).entries;
  return last && { seq: last.seq, hash: last.hash, at: last.at };
}

/**
 * Whether entries after the log's end are lost. `none`: the last entry is a recovery's own, and nothing has changed since. `unknown`: only
 * the restore of a backup could have lost some, and nothing tells of one.
 */
export type LaterEntries = 'lost' | 'none' | 'unknown';

const LATER_ENTRIES: Record<LaterEntries, string> = {
  lost: 'lost: what was recorded after that entry, and before this one, is not in this log',
  none: "none: that entry is the last recovery's, and nothing was lost since",
  unknown:
    'unknown: if this is a backup, what was recorded after that entry is not in this log; nothing else tells of a loss',
};

/** @param hasLost whether the database, or what gateways have seen, tells of it */
export async function laterEntries(log: RecoveryLog, hasLost: boolean): Promise<LaterEntries> {
  if (hasLost) return 'lost';
  const [last] = (await log.find(log.head.seq - 1, 1)).entries;
  const isRecoverys =
    last?.by === ORIGIN && (last.action === 'origin.recover' || last.details?.why === RECOVERY);
  return isRecoverys ? 'none' : 'unknown';
}

/** What the database had lost, and what was done about it. */
export interface MendedState {
  /** In words; undefined if it was whole. */
  lost: string | undefined;
  /** Of which a part, or all, could not be read. */
  damagedFiles: string[];
  /** Values that could not be read, by table; they are deleted. */
  unreadable: Record<string, number>;
  /** The path to which an unusable database was moved. */
  putAside: string | undefined;
}

/** Why rollouts are paused, and releases came. */
const RECOVERY = 'recover';
/** Names in one entry: its details are bounded. */
const MAX_NAMED = 20;

/**
 * Records that this isn't the log that the origin was writing when it was lost. It goes on from the backup's end, or from what is left.
 * Entries after that are missing, and their numbers are given again.
 */
export async function recordRecovery(
  store: RevocationStore,
  about: {
    end: LogEnd | undefined;
    later: LaterEntries;
    /** Mirror whose copy is taken over. */
    from: string | undefined;
    /** By role: those of the backup, and of the copy. */
    versions: { restored: Record<string, number>; seen: Record<string, number> | undefined };
    database: MendedState;
    revocations: LostRevocations;
  },
): Promise<void> {
  const { end, later, from, versions, database, revocations } = about;
  const { lost, damagedFiles, unreadable, putAside } = database;
  const details = {
    logRestoredTo: end ?? null,
    laterEntries: LATER_ENTRIES[later],
    from: from ?? null,
    versions,
    ...(lost !== undefined && { lost }),
    ...(damagedFiles.length > 0 && { damagedFiles: damagedFiles.slice(0, MAX_NAMED) }),
    ...(Object.keys(unreadable).length > 0 && { unreadable }),
    ...(putAside !== undefined && { putAside }),
    ...(revocations.members.length > 0 && {
      revokedAgain: revocations.members.length,
      amongThem: revocations.members.slice(0, MAX_NAMED).map(({ id }) => id),
    }),
  };
  const event = { by: ORIGIN, action: 'origin.recover' as const, subject: 'origin:data', details };
  await store.revokeAgain(revocations, event);
}

/** That files came from elsewhere: the very ones that were published. */
export async function recordRestore(
  log: Pick<RecoveryLog, 'record'>,
  details: { from: readonly string[]; metadata: readonly string[] },
): Promise<void> {
  await log.record({ by: ORIGIN, action: 'origin.restore', subject: 'origin:data', details });
}

export async function recordPause(log: RecoveryLog, rollouts: readonly string[]): Promise<void> {
  await recordEach(
    log,
    'rollout.pause',
    rollouts.map(id => `rollout:${id}`),
  );
}

export async function recordReleases(
  log: RecoveryLog,
  releases: readonly { product: string; counter: number }[],
): Promise<void> {
  await recordEach(
    log,
    'release.recover',
    releases.map(({ product, counter }) => `release:${product}/${counter}`),
  );
}

async function recordEach(log: RecoveryLog, action: AuditAction, subjects: readonly string[]): Promise<void> {
  const details = { why: RECOVERY };
  await Promise.all(subjects.map(subject => log.record({ by: ORIGIN, action, subject, details })));
}
