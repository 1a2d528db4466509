import { SitecastError } from '@sitecast/shared/errors';
import {
  delegatedSigners,
  type Metadata,
  parseMetadata,
  type RoleSigners,
  type TargetFile,
  topLevelSigners,
  verifyThreshold,
} from '@sitecast/shared/trust';
import { type Committed, type MetadataReader, metaFileOf, readRoot } from './committed.ts';
import { ONLINE_LIFETIME_MS } from './online-roles.ts';
import type { Role } from './roles.ts';

/** What is left of a repository whose timestamp, snapshot or deltas are damaged. It is enough to sign those anew. */
export interface Remains {
  root: Metadata<'root'>;
  targets: Metadata<'targets'>;
  rollouts: Metadata<'targets'>;
  /** What the deltas role listed; nothing if that is damaged: the origin makes deltas again. */
  deltasTargets: Record<string, TargetFile>;
  /** Not later than when the last timestamp was issued. */
  issuedMs: number;
}

/**
 * Reads what operators have signed and the rollouts, without the files that lead there: of each role the newest version. To be
 * called once the store is settled: then the newest is the one in force, because a commit that was undone leaves no file behind.
 * @returns undefined if any of them is damaged, or if they don't belong together
 */
export async function readRemains(store: MetadataReader): Promise<Remains | undefined> {
  const newest = await store.newestVersions();
  const root = await readRoot(store, newest.get('root') ?? 0);
  if (!root) return undefined;
  const targets = await readSigned(store, 'targets', newest, topLevelSigners(root.signed, 'targets'));
  const delegations = targets?.signed.delegations;
  const rollouts = await readSigned(store, 'rollouts', newest, delegatedSigners(delegations, 'rollouts'));
  const deltas = await readSigned(store, 'deltas', newest, delegatedSigners(delegations, 'deltas'));
  if (!targets || !rollouts) return undefined;
  const snapshot = await readSnapshot(store, newest, topLevelSigners(root.signed, 'snapshot'));
  if (snapshot && !lists(snapshot, { targets, rollouts })) return undefined;
  const isInForce = deltas && (!snapshot || lists(snapshot, { deltas }));
  const deltasTargets = isInForce ? deltas.signed.targets : {};
  const issuedMs = Date.parse(rollouts.signed.expires) - ONLINE_LIFETIME_MS;
  return { root, targets, rollouts, deltasTargets, issuedMs };
}

/** The state before `next`, as if nothing were there but what operators have signed. */
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

async function readSigned(
  store: MetadataReader,
  role: Role,
  newest: ReadonlyMap<string, number>,
  signers: RoleSigners | undefined,
): Promise<Metadata<'targets'> | undefined> {
  return readVerified(store, role, newest, signers, bytes => parseMetadata(bytes, 'targets'));
}

async function readSnapshot(
  store: MetadataReader,
  newest: ReadonlyMap<string, number>,
  signers: RoleSigners,
): Promise<Metadata<'snapshot'> | undefined> {
  return readVerified(store, 'snapshot', newest, signers, bytes => parseMetadata(bytes, 'snapshot'));
}

async function readVerified<T extends Metadata>(
  store: MetadataReader,
  role: Role,
  newest: ReadonlyMap<string, number>,
  signers: RoleSigners | undefined,
  parse: (bytes: Uint8Array) => T,
): Promise<T | undefined> {
  const version = newest.get(role) ?? 0;
  const bytes = await store.metadata(role, version);
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
