import { REPOSITORY_ROLES } from '@sitecast/shared/api';
import { createHash } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import {
  DEFAULT_TRUST_LIMITS,
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
import type { Files } from '../storage/files.ts';
import { readOrUndefined } from '../storage/unreadable.ts';

export const METADATA = 'repository/metadata';
export const TARGETS = 'repository/targets';
export const TIMESTAMP = `${METADATA}/timestamp.json`;

export const ROLES = REPOSITORY_ROLES;
export type Role = (typeof ROLES)[number];

/** One whole state of the repository: what a client that follows the root and the timestamp gets to see. */
export interface Committed {
  root: Metadata<'root'>;
  targets: Metadata<'targets'>;
  rollouts: Metadata<'targets'>;
  deltas: Metadata<'targets'>;
  snapshot: Metadata<'snapshot'>;
  timestamp: Metadata<'timestamp'>;
}

/** How many bytes a client accepts for a role; a file beyond it must not be published. */
export function maxBytesOf(role: Role): number {
  switch (role) {
    case 'root':
      return DEFAULT_TRUST_LIMITS.maxRootBytes;
    case 'timestamp':
      return DEFAULT_TRUST_LIMITS.maxTimestampBytes;
    case 'snapshot':
      return DEFAULT_TRUST_LIMITS.maxSnapshotBytes;
    default:
      return DEFAULT_TRUST_LIMITS.maxTargetsBytes;
  }
}

/** The file of a role's version within the data directory. */
export function metadataFile(role: Role, version: number): string {
  return `${METADATA}/${metadataPath(role, version)}`;
}

/** What snapshot and timestamp say of a file. */
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
 * Reads the committed state and checks that it holds together: hashes, versions, signatures (not expiry, which
 * the origin mends by itself after a long downtime).
 * @returns undefined for a data directory without a repository
 * @throws SITECAST_REPOSITORY_DAMAGED (failed)
 */
export async function loadCommitted(files: Files): Promise<Committed | undefined> {
  const timestampBytes = await readOrUndefined(files, TIMESTAMP, maxBytesOf('timestamp'));
  const rootVersion = await newestRootVersion(files);
  if (timestampBytes === undefined && rootVersion === 0) return undefined;
  if (timestampBytes === undefined) throw damaged('timestamp.json is missing');
  if (rootVersion === 0) throw damaged('there is no root metadata');
  const root = await readRole(files, 'root', 'root', { version: rootVersion });
  const timestamp = parse(timestampBytes, 'timestamp', 'timestamp.json');
  const snapshot = await readRole(files, 'snapshot', 'snapshot', timestamp.signed.meta['snapshot.json']);
  const listed = async (role: 'targets' | 'rollouts' | 'deltas') =>
    readRole(files, role, 'targets', snapshot.signed.meta[`${role}.json`]);
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

async function newestRootVersion(files: Files): Promise<number> {
  let newest = 0;
  for await (const { name } of files.list(METADATA)) {
    const version = Number(/^([1-9]\d{0,15})\.root\.json$/.exec(name)?.[1] ?? 0);
    newest = Math.max(newest, version);
  }
  return newest;
}

async function readRole<T extends MetadataType>(
  files: Files,
  role: Role,
  type: T,
  listed: MetaFile | undefined,
): Promise<Metadata<T>> {
  if (!listed) throw damaged(`the snapshot doesn't list ${role}`);
  const name = metadataPath(role, listed.version);
  const bytes = await readOrUndefined(files, `${METADATA}/${name}`, maxBytesOf(role));
  if (bytes === undefined) throw damaged(`${name} is missing, or can't be read`);
  const sha256 = listed.hashes?.sha256;
  if (sha256 !== undefined && sha256Hex(bytes) !== sha256) throw damaged(`${name} was altered`);
  const metadata = parse(bytes, type, name);
  if (metadata.signed.version !== listed.version) throw damaged(`${name} holds another version`);
  return metadata;
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
