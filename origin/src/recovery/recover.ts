import { SitecastError } from '@sitecast/shared/errors';
import { parseRollouts, type RolloutsFile, rolloutsTarget, serializeRollouts } from '@sitecast/shared/fleet';
import { type Omitted, type RoleTarget, roleTargets, targetPath } from '@sitecast/shared/trust';
import type { Registry } from '../fleet/registry.ts';
import type { Log } from '../log.ts';
import type { LackingRelease } from '../repository/check-releases.ts';
import { readListing } from '../repository/listing.ts';
import type { OnlineRole } from '@sitecast/shared/signing';
import type { Repository } from '../repository/repository.ts';
import { PublishedRollouts } from '../rollouts/published.ts';
import type { ChunkStaging, FileStaging } from '../staging/ports.ts';
import { inOrder, type Mirror, type MirrorCopy, readMirror } from './mirror-copy.ts';
import { fetchTarget } from './restore.ts';
import { restoreRevocations, type RevocationStore } from './revocations.ts';
import { type LeftOut, stageCopy } from './stage-copy.ts';
import { type UnreadMirror, unreadText } from './watched-mirrors.ts';
import {
  endOf,
  type LaterEntries,
  laterEntries,
  type LogEnd,
  type MendedState,
  recordPause,
  recordRecovery,
  recordReleases,
  type RecoveryLog,
} from './record.ts';

const GOING_ON: ReadonlySet<string> = new Set(['active', 'rollingBack']);

interface RecoverDeps {
  repository: Repository;
  staged: FileStaging;
  chunks: ChunkStaging;
  /** The restored one. */
  audit: RecoveryLog;
  registry: Pick<Registry, 'member'>;
  revocations: RevocationStore;
  /** What the database had lost. */
  database: MendedState;
  /** Called before anything is changed: from then on it has to be run to its end. */
  begins: () => Promise<void>;
  now: () => number;
  log: Log;
}

/** What a recovery has found and done. */
export interface Recovered {
  /** The mirror whose copy was the newest; undefined if none was newer than the local state. */
  from: string | undefined;
  /** Mirrors that could not be read, and why. */
  unread: UnreadMirror[];
  /** Versions afterwards, by role. */
  versions: Record<string, number>;
  /** Releases that the backup hadn't had. */
  releases: { product: string; counter: number }[];
  /** Those of them that still lack chunks: they are to be published again, with the same bytes. */
  lacking: LackingRelease[];
  /** Target files that no mirror has: their releases can't be installed before these are back. */
  lost: string[];
  /** What the newest metadata lists and nobody can serve, by role. */
  omitted: Omitted[];
  /** What `deltas` lists and was not brought back. */
  leftOut: LeftOut[];
  /** Rollouts that are paused now. */
  paused: string[];
  /**
   * Roles that this origin can't sign, and why: as a rule their keys were rotated after the backup. The origin serves what gateways
   * have. It publishes nothing, not even that rollouts are paused, before each key is rotated once more.
   */
  missingKeys: { role: OnlineRole; problem: string }[];
  /** The last entry of the audit log that was there. */
  logRestoredTo: LogEnd | undefined;
  laterEntries: LaterEntries;
  database: MendedState;
  /** Devices and gateways that the database no longer knew as revoked. */
  revokedAgain: string[];
  /** Where a new first admin's token lies, if none was left. */
  adminTokenPath?: string;
}

/**
 * Prepares an origin that was restored from a backup, or that goes on with what is left of its database, before it serves anything. It
 * takes over what its mirrors have seen since then (all of it is signed: roots and targets by the operators, the rest by its own keys),
 * goes on above every version number that was ever handed out, pauses all rollouts, and revokes again what was revoked. It may be
 * interrupted and run again.
 * @param mirrors asked one after the other; the newest copy counts
 * @param unreached those that gave no answer so far
 * @throws SITECAST_NOT_INITIALISED, SITECAST_MIRRORS_UNREAD, and those of `Repository.adopt`
 */
export async function recover(
  deps: RecoverDeps,
  mirrors: readonly Mirror[],
  unreached: () => readonly UnreadMirror[],
): Promise<Recovered> {
  const { repository, audit, database } = deps;
  const unread: Recovered['unread'] = [];
  const newest = repository.committed && (await newestCopy(repository, mirrors, unread));
  const copy = newest && isNewer(newest, repository) ? newest : undefined;
  const logRestoredTo = await endOf(audit);
  const published = await new PublishedRollouts(repository).all();
  const rolloutFiles = copy ? await rolloutFilesOf(copy, mirrors, unread) : new Map<string, Buffer>();
  const rollouts = copy ? readRollouts(rolloutFiles) : published;
  const revocations = await restoreRevocations(deps, new Map([...published, ...rollouts]));
  const versions = { restored: repository.versions(), seen: copy?.versions };
  const later = await laterEntries(audit, copy !== undefined || isMended(database));
  if (copy) await deps.begins();
  const about = { end: logRestoredTo, later, from: copy?.mirror.name, versions, database, revocations };
  if (repository.committed || isMended(database)) await recordRecovery(deps.revocations, about);
  else throw notInitialised();
  const caughtUp = await catchUp(deps, { copy, mirrors, rollouts, rolloutFiles });
  return {
    from: copy?.mirror.name,
    unread: [
      ...unread,
      ...unreached().filter(({ mirror }) => !unread.some(known => known.mirror === mirror)),
    ],
    versions: repository.versions(),
    ...caughtUp,
    missingKeys: repository.missingKeys,
    logRestoredTo,
    laterEntries: later,
    database,
    revokedAgain: revocations.members.map(({ id }) => id),
  };
}

export const isMended = ({ lost, damagedFiles, unreadable }: MendedState): boolean =>
  lost !== undefined || damagedFiles.length > 0 || Object.keys(unreadable).length > 0;

async function catchUp(
  deps: RecoverDeps,
  {
    copy,
    mirrors,
    rollouts,
    rolloutFiles,
  }: {
    copy: MirrorCopy | undefined;
    mirrors: readonly Mirror[];
    rollouts: ReadonlyMap<string, RolloutsFile>;
    rolloutFiles: ReadonlyMap<string, Buffer>;
  },
): Promise<Pick<Recovered, 'releases' | 'lacking' | 'lost' | 'omitted' | 'leftOut' | 'paused'>> {
  const { repository, audit } = deps;
  const { committed } = repository;
  if (!committed) return { releases: [], lacking: [], lost: [], omitted: [], leftOut: [], paused: [] };
  if (copy) await repository.raiseFloor(copy.versions, copy.issuedMs);
  // Rollouts are paused before anything else: however this ends, none goes on by itself.
  const paused = await pauseAll(deps, rollouts);
  if (!copy) {
    await publishPauses(repository);
    return { releases: [], lacking: [], lost: [], omitted: [], leftOut: [], paused };
  }
  const releases: Recovered['releases'] = [];
  const before = readListing(committed.targets.signed);
  for (const [product, ofProduct] of readListing(copy.targets.signed).releases) {
    for (const counter of ofProduct.keys())
      if (!before.releases.get(product)?.has(counter)) releases.push({ product, counter });
  }
  const leftOut = await stageCopy(deps, copy, mirrors);
  await recordReleases(audit, releases);
  const { lacking, lost } = await repository.adopt({ ...copy, rolloutFiles });
  await publishPauses(repository);
  return { releases, lacking, lost, omitted: omittedFrom(copy), leftOut, paused };
}

async function newestCopy(
  repository: Repository,
  mirrors: readonly Mirror[],
  unread: Recovered['unread'],
): Promise<MirrorCopy | undefined> {
  const { committed } = repository;
  let newest: MirrorCopy | undefined;
  for (const mirror of mirrors) {
    try {
      if (!committed) break;
      const copy = await readMirror(mirror, committed.root);
      if (!newest || rankOf(copy) > rankOf(newest)) newest = copy;
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      unread.push({ mirror: mirror.name, code: error.code, message: error.message });
    }
  }
  if (newest || mirrors.length === 0) return newest;
  throw new SitecastError(
    'unreachable',
    'SITECAST_MIRRORS_UNREAD',
    `none of the mirrors could be read: ${unreadText(unread)}`,
    {
      hint: 'Nothing was changed. Name other gateways with --from; without any, rollouts are just paused.',
      data: { unread },
    },
  );
}

const rankOf = ({ versions }: MirrorCopy): number => versions.timestamp;

/** By its version number; one with the same number and other bytes was signed after the backup, too. */
function isNewer({ versions, timestamp, targets, roots }: MirrorCopy, repository: Repository): boolean {
  const own = repository.versions();
  const { committed } = repository;
  const isSame = committed && Buffer.compare(committed.timestamp.bytes, timestamp.bytes) === 0;
  if (isSame && roots.length === 0) return false;
  return (
    versions.timestamp >= (own.timestamp ?? 0) ||
    versions.rollouts > (own.rollouts ?? 0) ||
    targets.signed.version > (own.targets ?? 0) ||
    roots.length > 0
  );
}

/** By product. */
function readRollouts(files: ReadonlyMap<string, Buffer>): Map<string, RolloutsFile> {
  const read = Array.from(files.values(), bytes => parseRollouts(bytes));
  return new Map(read.map(file => [file.product, file]));
}

/**
 * Fetches the rollout files of a copy, by target name. The mirror that has the metadata may not have the files: each is taken from
 * the first mirror that has the right one.
 * @param unread gets the mirrors that list a file without giving it, or give another one
 * @throws SITECAST_MIRRORS_UNREAD
 */
async function rolloutFilesOf(
  copy: MirrorCopy,
  mirrors: readonly Mirror[],
  unread: Recovered['unread'],
): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>();
  const all = inOrder(copy, mirrors);
  for (const { name, sha256, file } of listedIn(copy, 'rollouts')) {
    const wanted = { sha256, lengthBytes: file.length };
    const bytes = await fetchTarget(all, targetPath(name, sha256), wanted, (mirror, gaveWrong) => {
      if (unread.some(known => known.mirror === mirror.name)) return;
      if (gaveWrong) unread.push({ mirror: mirror.name, ...mismatch(name) });
      else if (mirror === copy.mirror) unread.push({ mirror: mirror.name, ...missing(name) });
    });
    if (!bytes) throw withholding(copy, name, unread);
    files.set(name, Buffer.from(bytes));
  }
  return files;
}

const mismatch = (name: string) => ({
  code: 'SITECAST_TARGET_MISMATCH',
  message: `its ${name} is not the one that was signed`,
});
const missing = (name: string) => ({
  code: 'SITECAST_TARGET_MISSING',
  message: `it shows metadata that lists ${name}, and does not give that file`,
});

function withholding({ mirror }: MirrorCopy, name: string, unread: Recovered['unread']): SitecastError {
  return new SitecastError(
    'unreachable',
    'SITECAST_MIRRORS_UNREAD',
    `none of the mirrors gives ${name}, which the newest metadata lists: ${unreadText(unread)}`,
    {
      hint: `Nothing was changed. Name more gateways with --from, or leave out ${mirror.name}: then what it alone has seen is lost.`,
      data: { unread },
    },
  );
}

/** If a key is missing, the pauses are deferred until it is rotated. */
async function publishPauses(repository: Repository): Promise<void> {
  const canSign = repository.missingKeys.every(({ role }) => role === 'deltas');
  if (canSign && (await repository.deferredRollouts()).size > 0) await repository.publishRollouts(new Map());
}

/** @returns ids of the rollouts that were going on */
async function pauseAll(
  { repository, audit }: Pick<RecoverDeps, 'repository' | 'audit'>,
  files: ReadonlyMap<string, RolloutsFile>,
): Promise<string[]> {
  const paused: string[] = [];
  const written = new Map<string, Buffer>();
  for (const [product, file] of files) {
    const rollouts = file.rollouts.map(rollout => {
      if (!GOING_ON.has(rollout.state)) return rollout;
      paused.push(rollout.id);
      return { ...rollout, state: 'paused' as const };
    });
    written.set(rolloutsTarget(product), serializeRollouts({ ...file, rollouts }));
  }
  await recordPause(audit, paused);
  await repository.deferRollouts(written);
  return paused;
}

const listedIn = (copy: MirrorCopy, role: 'rollouts'): RoleTarget[] =>
  roleTargets(role, copy[role].signed.targets).listed;

/** Whoever signs for a role can err, or have its key stolen: that costs the names, not the recovery. */
const omittedFrom = (copy: MirrorCopy): Omitted[] =>
  (['rollouts', 'deltas'] as const).flatMap(
    role => roleTargets(role, copy[role].signed.targets).omitted ?? [],
  );

function notInitialised(): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_NOT_INITIALISED',
    'this data directory holds no repository that could be recovered',
    { hint: 'Put the backup in place first.' },
  );
}
