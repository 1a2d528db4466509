import { createHash } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import {
  delegatedSigners,
  type Metadata,
  type MetadataType,
  type MetaFile,
  metadataPath,
  parseMetadata,
  type RoleSigners,
  type SignedByType,
  topLevelSigners,
  verifyThreshold,
} from '@sitecast/shared/trust';
import type { RepositoryStore } from './repository-store.ts';
import { ROLES, type Role } from './roles.ts';

export type MetadataReader = Pick<RepositoryStore, 'timestamp' | 'metadata' | 'newestVersions'>;

/** One whole state of the repository, as a client sees it that follows root and timestamp. */
export interface Committed {
  root: Metadata<'root'>;
  targets: Metadata<'targets'>;
  rollouts: Metadata<'targets'>;
  deltas: Metadata<'targets'>;
  snapshot: Metadata<'snapshot'>;
  timestamp: Metadata<'timestamp'>;
}

/** How snapshot and timestamp describe a file. */
export function metaFileOf({ bytes, signed }: Metadata): Required<MetaFile> {
  return { version: signed.version, length: bytes.length, hashes: { sha256: sha256Hex(bytes) } };
}

export function sha256Hex(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/**
 * Who signs for a role.
 * @param targets needed for the delegated roles alone
 */
export function signersOf(
  role: Role,
  root: SignedByType['root'],
  targets: SignedByType['targets'],
): RoleSigners {
  if (role !== 'rollouts' && role !== 'deltas') return topLevelSigners(root, role);
  return delegatedSigners(targets.delegations, role) ?? { keys: {}, keyids: [], threshold: 1 };
}

/**
 * Reads the committed state and checks that it holds together: hashes, versions, signatures. Expiry isn't checked: the origin
 * signs its roles anew by itself after a long downtime.
 * @returns undefined for a store without a repository
 * @throws SITECAST_REPOSITORY_DAMAGED (failed)
 */
export async function loadCommitted(store: MetadataReader): Promise<Committed | undefined> {
  const timestampBytes = await store.timestamp();
  const rootVersion = (await store.newestVersions()).get('root');
  if (timestampBytes === undefined && rootVersion === undefined) return undefined;
  if (timestampBytes === undefined) throw damaged('timestamp.json is missing');
  if (rootVersion === undefined) throw damaged('there is no root metadata');
  const root = await readRole(store, 'root', 'root', { version: rootVersion });
  const timestamp = parse(timestampBytes, 'timestamp', 'timestamp.json');
  const snapshot = await readRole(store, 'snapshot', 'snapshot', timestamp.signed.meta['snapshot.json']);
  const listed = async (role: 'targets' | 'rollouts' | 'deltas') =>
    readRole(store, role, 'targets', snapshot.signed.meta[`${role}.json`]);
  const committed = {
    root,
    timestamp,
    snapshot,
    targets: await listed('targets'),
    rollouts: await listed('rollouts'),
    deltas: await listed('deltas'),
  };
  for (const role of ROLES) {
    try {
      verifyThreshold(committed[role], signersOf(role, root.signed, committed.targets.signed), { role });
    } catch (cause) {
      throw damaged(`the ${role} metadata isn't signed as it must be`, cause);
    }
  }
  return committed;
}

async function readRole<T extends MetadataType>(
  store: MetadataReader,
  role: Role,
  type: T,
  listed: MetaFile | undefined,
): Promise<Metadata<T>> {
  if (!listed) throw damaged(`the snapshot doesn't list ${role}`);
  const name = metadataPath(role, listed.version);
  const bytes = await store.metadata(role, listed.version);
  if (bytes === undefined) throw damaged(`${name} is missing, or can't be read`);
  const sha256 = listed.hashes?.sha256;
  if (sha256 !== undefined && sha256Hex(bytes) !== sha256) throw damaged(`${name} was altered`);
  const metadata = parse(bytes, type, name);
  if (metadata.signed.version !== listed.version) throw damaged(`${name} holds another version`);
  return metadata;
}

/** A root that was in force before; undefined if it is lost or damaged, as far as its own keys tell. */
export async function readRoot(
  store: Pick<MetadataReader, 'metadata'>,
  version: number,
): Promise<Metadata<'root'> | undefined> {
  const bytes = await store.metadata('root', version);
  return bytes && parsedRoot(bytes, version);
}

/** A root that its own keys vouch for; undefined for anything else. */
export function parsedRoot(bytes: Uint8Array, version: number): Metadata<'root'> | undefined {
  try {
    const root = parseMetadata(bytes, 'root');
    verifyThreshold(root, topLevelSigners(root.signed, 'root'), { role: 'root', step: '5.3.4' });
    return root.signed.version === version ? root : undefined;
  } catch (error) {
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

function parse<T extends MetadataType>(bytes: Uint8Array, type: T, name: string): Metadata<T> {
  try {
    return parseMetadata(bytes, type);
  } catch (cause) {
    throw damaged(`${name} can't be read`, cause);
  }
}

export function damaged(what: string, cause?: unknown): SitecastError {
  return new SitecastError('failed', 'SITECAST_REPOSITORY_DAMAGED', `the repository is damaged: ${what}`, {
    hint: 'Bring the file back from a gateway (sitecast-origin recover --damaged-only --from URL), or the data directory from a backup.',
    cause,
  });
}

export function versionsOf(committed: Committed): Record<Role, number> {
  const { root, targets, timestamp, snapshot, rollouts, deltas } = committed;
  return {
    root: root.signed.version,
    targets: targets.signed.version,
    timestamp: timestamp.signed.version,
    snapshot: snapshot.signed.version,
    rollouts: rollouts.signed.version,
    deltas: deltas.signed.version,
  };
}
