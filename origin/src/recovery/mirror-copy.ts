import type { ChunkStore } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import {
  DEFAULT_TRUST_LIMITS,
  type Metadata,
  MemoryMetadataStore,
  type MetadataFetcher,
  metadataPath,
  parseMetadata,
  TufClient,
} from '@sitecast/shared/trust';
import { issuedMsOf } from '../repository/clock.ts';
import type { Committed } from '../repository/committed.ts';
import type { VersionFloor } from '../repository/repository-store.ts';

/** A gateway, which mirrors the repository. Nothing that it says is believed without a signature. */
export interface Mirror {
  /** For messages. */
  readonly name: string;
  readonly metadata: MetadataFetcher;
  readonly targets: MetadataFetcher;
  readonly chunks: ChunkStore;
}

/** The repository as a mirror has it, verified from a root on. */
export interface MirrorCopy extends Omit<Committed, 'root'> {
  readonly mirror: Mirror;
  /** The roots after the one that it was verified from, in order. */
  readonly roots: readonly Metadata<'root'>[];
  readonly versions: VersionFloor;
  /** When its timestamp was issued. */
  readonly issuedMs: number;
}

/**
 * Follows a mirror's repository from a root that is trusted. Expired metadata is taken as well, if it was valid when the timestamp
 * was issued: the origin may have been away for weeks, and nothing else says which version numbers are used up.
 * @throws the codes of docs/ERRORS.md under "Trust"
 */
export async function readMirror(mirror: Mirror, root: Metadata<'root'>): Promise<MirrorCopy> {
  const roots = new Map<string, Uint8Array>();
  const fetcher: MetadataFetcher = {
    fetch: async (path, options) => {
      const bytes = await mirror.metadata.fetch(path, options);
      if (bytes !== undefined) roots.set(path, bytes);
      return bytes;
    },
  };
  const nowMs = await timeOf(mirror);
  const store = new MemoryMetadataStore();
  await TufClient.init(store, root.bytes, nowMs);
  const client = await TufClient.open({ store, fetcher, now: () => nowMs });
  await client.refresh();
  const rollouts = await client.loadDelegated('rollouts');
  const deltas = await client.loadDelegated('deltas');
  const { root: newest, targets, timestamp, snapshot } = client.trusted;
  if (!targets || !timestamp || !snapshot) throw incomplete(mirror);
  return {
    mirror,
    roots: rootsAfter(root.signed.version, newest.signed.version, roots),
    targets,
    rollouts,
    deltas,
    snapshot,
    timestamp,
    versions: {
      timestamp: timestamp.signed.version,
      snapshot: snapshot.signed.version,
      rollouts: rollouts.signed.version,
      deltas: deltas.signed.version,
    },
    issuedMs: issuedMsOf(timestamp),
  };
}

/** When its timestamp was issued, if that is in the past. The signature is checked later, with everything else. */
async function timeOf({ metadata, name }: Mirror): Promise<number> {
  const path = metadataPath('timestamp', undefined);
  const bytes = await metadata.fetch(path, { maxBytes: DEFAULT_TRUST_LIMITS.maxTimestampBytes });
  if (bytes === undefined) {
    throw new SitecastError('notFound', 'SITECAST_MIRROR_EMPTY', `${name} mirrors no repository`, {
      hint: 'Name a gateway of this fleet by its address, such as http://gateway.local:7401.',
    });
  }
  const { issued } = parseMetadata(bytes, 'timestamp').signed;
  return Math.min(Date.now(), issued === undefined ? Number.POSITIVE_INFINITY : Date.parse(issued));
}

/** The client has verified each of them on its way to the newest root. */
function rootsAfter(from: number, to: number, fetched: ReadonlyMap<string, Uint8Array>): Metadata<'root'>[] {
  const roots: Metadata<'root'>[] = [];
  for (let version = from + 1; version <= to; version += 1) {
    const bytes = fetched.get(metadataPath('root', version));
    if (bytes) roots.push(parseMetadata(bytes, 'root'));
  }
  return roots;
}

function incomplete({ name }: Mirror): SitecastError {
  return new SitecastError('untrusted', 'SITECAST_TRUST_INCOMPLETE', `${name} has no whole repository`);
}

/** The mirror that a copy came from, then the others. */
export const inOrder = ({ mirror }: MirrorCopy, mirrors: readonly Mirror[]): Mirror[] => [
  mirror,
  ...mirrors.filter(other => other !== mirror),
];
