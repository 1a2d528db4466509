import { SitecastError } from '@sitecast/shared/errors';
import {
  delegatedSigners,
  type Metadata,
  parseMetadata,
  type RoleSigners,
  topLevelSigners,
  verifyThreshold,
} from '@sitecast/shared/trust';
import type { Files } from '../storage/files.ts';
import { readOrUndefined } from '../storage/unreadable.ts';
import { type Committed, maxBytesOf, METADATA, metadataFile, metaFileOf, type Role } from './committed.ts';
import { ONLINE_LIFETIME_MS } from './online-roles.ts';
import { readRoot } from './published-files.ts';

/** What is left of a repository whose timestamp, snapshot or deltas are damaged: enough to sign those anew. */
export interface Remains {
  root: Metadata<'root'>;
  targets: Metadata<'targets'>;
  rollouts: Metadata<'targets'>;
  /** Not later than when the last timestamp was issued. */
  issuedMs: number;
}

/**
 * Reads what operators have signed and the rollouts, without the files that lead there: of each role the newest file by its
 * name. To be called once no change is under way: then the newest is the one in force, because a change that was undone leaves
 * no file behind.
 * @returns undefined where any of them is damaged, or where they don't belong together
 */
export async function readRemains(files: Files): Promise<Remains | undefined> {
  const newest = await newestVersions(files);
  const root = await readRoot(files, newest.get('root') ?? 0);
  if (!root) return undefined;
  const targets = await readSigned(files, 'targets', newest, topLevelSigners(root.signed, 'targets'));
  const delegations = targets?.signed.delegations;
  const rollouts = await readSigned(files, 'rollouts', newest, delegatedSigners(delegations, 'rollouts'));
  const deltas = await readSigned(files, 'deltas', newest, delegatedSigners(delegations, 'deltas'));
  if (!targets || !rollouts || Object.keys(deltas?.signed.targets ?? {}).length > 0) return undefined;
  const snapshot = await readSnapshot(files, newest, topLevelSigners(root.signed, 'snapshot'));
  if (snapshot && !lists(snapshot, { targets, rollouts })) return undefined;
  return { root, targets, rollouts, issuedMs: Date.parse(rollouts.signed.expires) - ONLINE_LIFETIME_MS };
}

/** The state as it would be if `next` replaced all that isn't the operators'. */
export function withoutOnlineRoles(next: Committed): Committed {
  const bytes = new Uint8Array();
  return {
    ...next,
    timestamp: { ...next.timestamp, bytes },
    snapshot: { ...next.snapshot, bytes },
    rollouts: { ...next.rollouts, bytes },
    deltas: { ...next.deltas, bytes },
  };
}

export function isDamage(error: unknown): boolean {
  return error instanceof SitecastError && error.code === 'SITECAST_REPOSITORY_DAMAGED';
}

export function stillDamaged(damage: unknown, { message, hint }: SitecastError): SitecastError {
  const what = damage instanceof SitecastError ? damage.message : 'the repository is damaged';
  const said = `${what}; and it can't be signed anew: ${message}`;
  return new SitecastError('failed', 'SITECAST_REPOSITORY_DAMAGED', said, {
    ...(hint && { hint }),
    cause: damage,
  });
}

/** Of each role the highest version that a file is named after. */
export async function newestVersions(files: Files): Promise<Map<string, number>> {
  const newest = new Map<string, number>();
  for await (const { name } of files.list(METADATA)) {
    const [, version, role] = /^([1-9]\d{0,15})\.([a-z]+)\.json$/.exec(name) ?? [];
    if (role !== undefined) newest.set(role, Math.max(newest.get(role) ?? 0, Number(version)));
  }
  return newest;
}

async function readSigned(
  files: Files,
  role: Role,
  newest: ReadonlyMap<string, number>,
  signers: RoleSigners | undefined,
): Promise<Metadata<'targets'> | undefined> {
  return readVerified(files, role, newest, signers, bytes => parseMetadata(bytes, 'targets'));
}

async function readSnapshot(
  files: Files,
  newest: ReadonlyMap<string, number>,
  signers: RoleSigners,
): Promise<Metadata<'snapshot'> | undefined> {
  return readVerified(files, 'snapshot', newest, signers, bytes => parseMetadata(bytes, 'snapshot'));
}

async function readVerified<T extends Metadata>(
  files: Files,
  role: Role,
  newest: ReadonlyMap<string, number>,
  signers: RoleSigners | undefined,
  parse: (bytes: Uint8Array) => T,
): Promise<T | undefined> {
  const version = newest.get(role) ?? 0;
  const bytes = await readOrUndefined(files, metadataFile(role, version), maxBytesOf(role));
  if (!bytes || !signers) return undefined;
  try {
    const metadata = parse(bytes);
    verifyThreshold(metadata, signers, { role });
    return metadata.signed.version === version ? metadata : undefined;
  } catch (error) {
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

function lists({ signed }: Metadata<'snapshot'>, roles: Record<string, Metadata<'targets'>>): boolean {
  return Object.entries(roles).every(([role, metadata]) => {
    const listed = signed.meta[`${role}.json`];
    const { version, hashes } = metaFileOf(metadata);
    return listed?.version === version && listed.hashes?.sha256 === hashes.sha256;
  });
}
