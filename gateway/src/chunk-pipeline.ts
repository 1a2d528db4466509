import {
  type Chunk,
  type ChunkId,
  type ChunkStore,
  coalescing,
  compacting,
  failover,
  verifying,
  counted,
  firstHolding,
  whileOpen,
} from '@sitecast/shared/content';
import type { SitecastError } from '@sitecast/shared/errors';
import type { ChunkAllowlist } from './chunks/allowlist.ts';
import type { DiskCache } from './chunks/disk-cache.ts';
import { FetchQueue, MAX_UPSTREAM_FETCHES, type QueuedChunkStore } from './chunks/fetch-queue.ts';
import { memoryCache, MemoryStore } from './chunks/memory-store.ts';
import type { PeerGateways } from './peer-gateways/peer-gateways.ts';
import { countedOutOfTurn, heldByPeerGateways, ownerFirst } from './peer-gateways/shared-fetching.ts';
import type { WanLimits } from './wan/wan-limits.ts';

interface ChunkPipelineDeps {
  /** This gateway's id. */
  ownId: string;
  memoryBytes: number;
  disk: DiskCache;
  allowlist: ChunkAllowlist;
  peerGateways: Pick<PeerGateways, 'able' | 'knownIds' | 'rest'>;
  /** Undefined where this gateway exchanges no chunks with devices over libp2p. */
  deviceChunks: ChunkStore | undefined;
  /** In the order in which they are asked. */
  upstreams: readonly { url: string; isOrigin: boolean; chunks: ChunkStore }[];
  /** Gateways of other sites; undefined where this one is not in the fleet's network. */
  neighbours: ChunkStore | undefined;
  /** Whether no upstream answers: only then are neighbours asked. */
  isCutOff: () => boolean;
  wanLimits: Pick<WanLimits, 'demandOpen' | 'fetchesAtOnce'>;
  /** An upstream gave wrong bytes. */
  onRefused: (url: string, error: SitecastError) => void;
  /** Called when a chunk came over the WAN. */
  onReceived: (lengthBytes: number) => void;
}

/** How chunks were found since the start. */
export interface ChunkCounts {
  memoryHits: number;
  diskHits: number;
  /** Sent by the peer gateway that is the chunk's owner. */
  peerFetched: number;
  /** A peer gateway already had it. */
  peerHeld: number;
  /** A device of the site had it. */
  siteDevices: number;
  wanFetches: number;
  /** Fetched over the WAN instead of a peer gateway that is away or didn't send it. It may be a second copy. */
  takeovers: number;
  /** Fetched for a peer gateway although this one isn't the owner: the two disagree about the owner. It may be a second copy. */
  disagreements: number;
}

/** The chunk stores of the gateway. Each one answers only for chunks that a mirrored index names. */
export interface ChunkPipeline {
  isAllowed(id: ChunkId): boolean;
  /** The frame, without a turn of the event loop, if it is in memory, or in a file that was verified within a minute. */
  atOnce(id: ChunkId, hex: string): Buffer | undefined;
  /** Chunks that are stored here; nothing is fetched. */
  readonly here: ChunkStore;
  /** Chunks from every source. */
  readonly forDevices: QueuedChunkStore;
  /** The same for gateways of the site; undefined where there is no origin to fetch from. */
  readonly forGateways: QueuedChunkStore | undefined;
  /** For gateways of other sites: chunks that are at this site, or at the origin. */
  readonly forNeighbours: QueuedChunkStore;
  /** Whether chunks wait for their turn to be fetched. */
  isBusy(): boolean;
  /** How many chunks were not fetched since the start because other requesters had asked for fewer. */
  givenUp(): number;
  counts(): ChunkCounts;
}

/**
 * The way of a chunk through the gateway, as stores that wrap stores. A chunk is verified when it comes in, and when it is read from the
 * disk into memory: memory holds only chunks that this process has verified.
 *
 *     for devices:   memory → disk → turns → its owner among the site's gateways
 *                                              └ this gateway: peer gateways that hold it → devices → WAN (upstreams in order)
 *     for gateways:  memory → disk → turns → peer gateways that hold it → devices → WAN (the origin alone)
 *     neighbours:    memory → disk → turns → peer gateways that hold it → devices → the origin
 *     over libp2p:   memory → disk
 *
 * Devices send chunks in the form in which their slots hold them. This gateway compresses what it stores and sends on.
 *
 * While no upstream answers, the WAN begins with the gateways of other sites (`neighbours`).
 */
export function openChunkPipeline(deps: ChunkPipelineDeps): ChunkPipeline {
  const { ownId, disk, allowlist, peerGateways, deviceChunks, wanLimits } = deps;
  const counts = newCounts();
  const memory = new MemoryStore(deps.memoryBytes);
  const { here, atOnce } = ofThisGateway(memory, disk, counts);
  const { anyUpstream, origin, originAlone } = overWan(deps, memory, counts);

  // Chunks at the site are used before the WAN.
  const heldAtSite = [
    counted(heldByPeerGateways(peerGateways), () => (counts.peerHeld += 1)),
    ...(deviceChunks ? [counted(deviceChunks, () => (counts.siteDevices += 1))] : []),
  ];
  const outOfTurn = (store: ChunkStore, count: 'takeovers' | 'disagreements', ids: () => string[]) =>
    countedOutOfTurn(store, {
      ownId,
      ids: () => [ownId, ...ids()],
      onOutOfTurn: () => (counts[count] += 1),
    });
  const sourceForDevices = ownerFirst({
    ownId,
    peerGateways,
    own: firstHolding([...heldAtSite, outOfTurn(anyUpstream, 'takeovers', () => peerGateways.knownIds)]),
    onGiven: () => (counts.peerFetched += 1),
  });
  // Only from the origin, so that nothing is forwarded twice.
  const sourceForGateways =
    origin &&
    firstHolding([
      ...heldAtSite,
      outOfTurn(origin, 'disagreements', () => peerGateways.able.map(({ id }) => id)),
    ]);

  const inTurns = (source: ChunkStore): FetchQueue =>
    new FetchQueue({
      source: compacting(source),
      memory,
      disk,
      atOnce: wanLimits.fetchesAtOnce(MAX_UPSTREAM_FETCHES),
    });
  const forDevices = inTurns(sourceForDevices);
  // A queue of its own: what two gateways fetch for each other must not wait for what they have requested from each other.
  const forGateways = sourceForGateways && inTurns(sourceForGateways);
  // Only from the origin: a neighbour's request is never passed on to another neighbour.
  const forNeighbours = inTurns(firstHolding([...heldAtSite, ...(originAlone ? [originAlone] : [])]));

  return {
    isAllowed: id => allowlist.has(id),
    atOnce,
    here: allowlist.guard(here),
    forDevices: allowlist.guard(firstHolding([here, forDevices])),
    forGateways: forGateways && allowlist.guard(firstHolding([here, forGateways])),
    forNeighbours: allowlist.guard(firstHolding([here, forNeighbours])),
    isBusy: () => forDevices.waiting + (forGateways?.waiting ?? 0) > 0,
    givenUp: () => forDevices.givenUp + (forGateways?.givenUp ?? 0) + forNeighbours.givenUp,
    counts: () => ({ ...counts }),
  };
}

/** The chunks that are stored here as a store, and those of them that need no turn of the event loop. */
function ofThisGateway(
  memory: MemoryStore,
  disk: DiskCache,
  counts: ChunkCounts,
): { here: ChunkStore; atOnce: ChunkPipeline['atOnce'] } {
  const onMemoryHit = (hex: string): void => {
    counts.memoryHits += 1;
    disk.use(hex);
  };
  const onDiskHit = (): void => {
    counts.diskHits += 1;
  };
  const atOnce = (id: ChunkId, hex: string): Buffer | undefined => {
    const known = memory.frame(hex);
    if (known) {
      onMemoryHit(hex);
      return known;
    }
    const frame = disk.frame(id, hex);
    if (!frame) return undefined;
    onDiskHit();
    return frame;
  };
  return { here: memoryCache(memory, coalescing(counted(disk, onDiskHit)), onMemoryHit), atOnce };
}

/**
 * Chunks from the WAN while that is allowed, verified: each is fetched once at a time, however many ask. It is in memory before its fetch
 * ends, for the next requests.
 */
function overWan(
  { upstreams, neighbours, isCutOff, wanLimits, onRefused, onReceived }: ChunkPipelineDeps,
  memory: MemoryStore,
  counts: ChunkCounts,
): { anyUpstream: ChunkStore; origin: ChunkStore | undefined; originAlone: ChunkStore | undefined } {
  const onGiven = (chunk: Chunk): void => {
    counts.wanFetches += 1;
    onReceived(chunk.frame().length);
  };
  const fetching = (chunks: ChunkStore): ChunkStore =>
    coalescing(memoryCache(memory, compacting(counted(verifying(chunks, onRefused), onGiven))));
  const stores = upstreams.map(({ chunks }) => fetching(chunks));
  const origin = stores[upstreams.findIndex(({ isOrigin }) => isOrigin)];
  const open = (store: ChunkStore): ChunkStore => whileOpen(store, () => wanLimits.demandOpen());
  // An upstream that sent wrong bytes is asked after the others for a while: otherwise each wrong chunk would cross the WAN before the right
  // one. It is still asked for what the others lack: operators name upstreams, and one chunk that is damaged there must not take the others.
  const anyUpstream = failover(stores, { wrongBytes: 'rest' });
  const beyond = neighbours && fetching(neighbours);
  /** Waiting for each upstream, chunk by chunk, would take too long: while none answers, neighbours come first. */
  const orNeighbours = (store: ChunkStore): ChunkStore =>
    beyond === undefined ? store : firstWhile(isCutOff, failover([beyond, store]), store);
  return {
    anyUpstream: open(orNeighbours(anyUpstream)),
    origin: origin && open(orNeighbours(origin)),
    originAlone: origin && open(origin),
  };
}

/** The first store while the condition is true, else the other. */
function firstWhile(isSo: () => boolean, one: ChunkStore, other: ChunkStore): ChunkStore {
  const now = (): ChunkStore => (isSo() ? one : other);
  return {
    name: other.name,
    has: (id, request) => now().has(id, request),
    get: (id, request) => now().get(id, request),
  };
}

const newCounts = (): ChunkCounts => ({
  memoryHits: 0,
  diskHits: 0,
  peerFetched: 0,
  peerHeld: 0,
  siteDevices: 0,
  wanFetches: 0,
  takeovers: 0,
  disagreements: 0,
});
