import {
  type Chunk,
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  chunkIdToHex,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { sleep } from '@sitecast/shared/async';
import { ownerOf } from './rendezvous.ts';
import type { PeerGateway, PeerGateways } from './peer-gateways.ts';

/** One that has a new set a moment later than this gateway doesn't know the chunk yet. */
const UNKNOWN_RETRIES = 4;
const UNKNOWN_RETRY_MS = 250;

/** How a site's gateways shared the work, for the counters. */
export interface SharingCounts {
  /** Given by the gateway whose turn it was. */
  peerFetched: number;
  /** Another one had it already. */
  peerHeld: number;
  /** Devices of the site held it. */
  siteDevices: number;
  /** Fetched over the WAN in the place of a gateway that is away, or hasn't given it: it may be a second copy. */
  takeovers: number;
  /** Fetched for another gateway though it isn't this one's turn: the two don't agree. It may be a second copy. */
  disagreements: number;
}

interface SiteStoresDeps {
  ownId: string;
  peerGateways: Pick<PeerGateways, 'able' | 'knownIds' | 'rest'>;
  /** A chunk that a device of the site holds, verified; undefined where none gives it. */
  fromDevices?: ((id: ChunkId, request: ChunkRequest) => Promise<Chunk | undefined>) | undefined;
  /** What this gateway fetches over its WAN for its devices: from the origin, or else from gateways of other sites. */
  wan: ChunkStore;
  /** The same for another gateway, which asks: from the origin alone. Undefined where there's none. */
  origin: ChunkStore | undefined;
}

/**
 * Two stores that bring a chunk over the site's WAN once: the gateway whose turn it is fetches it, the others ask that one. Nobody
 * is asked in a circle: what another gateway asks for comes from here, from what others have, or from the origin.
 */
export class SiteStores {
  readonly counts: SharingCounts = {
    peerFetched: 0,
    peerHeld: 0,
    siteDevices: 0,
    takeovers: 0,
    disagreements: 0,
  };
  readonly #deps: SiteStoresDeps;
  /** For this gateway's own devices. */
  readonly forDevices: ChunkStore;
  /** For other gateways; undefined where there's no origin to fetch from. */
  readonly forGateways: ChunkStore | undefined;

  constructor(deps: SiteStoresDeps) {
    this.#deps = deps;
    const { wan, origin } = deps;
    this.forDevices = { name: wan.name, has: (id, request) => wan.has(id, request), get: this.#forDevice };
    this.forGateways = origin && {
      name: origin.name,
      has: (id, request) => origin.has(id, request),
      get: async (id, request = {}) => {
        const isOwn = this.#ownerAmong(id, this.#ableIds()) === this.#deps.ownId;
        return this.#fetchHere(id, request, origin, isOwn ? undefined : 'disagreements');
      },
    };
  }

  readonly #forDevice = async (id: ChunkId, request: ChunkRequest = {}): Promise<Chunk> => {
    const { ownId, peerGateways, wan } = this.#deps;
    const failed = new Set<string>();
    for (;;) {
      const able = peerGateways.able.filter(peerGateway => !failed.has(peerGateway.id));
      const ownerId = this.#ownerAmong(id, [ownId, ...able.map(peerGateway => peerGateway.id)]);
      const owner = able.find(peerGateway => peerGateway.id === ownerId);
      if (!owner) break;
      const chunk = await this.#ask(owner, id, request);
      if (chunk) return chunk;
      failed.add(owner.id);
    }
    const isOwn = this.#ownerAmong(id, [ownId, ...peerGateways.knownIds]) === ownId;
    try {
      return await this.#fetchHere(id, request, wan, isOwn ? undefined : 'takeovers');
    } catch (error) {
      request.signal?.throwIfAborted();
      if (error instanceof SitecastError && error.code === 'SITECAST_QUIET_HOURS') throw error;
      // This gateway may be cut off where another isn't.
      const chunk = await this.#askAnyOther(id, request, failed);
      if (chunk) return chunk;
      throw error;
    }
  };

  /** @returns undefined if it doesn't give it; then it rests */
  async #ask(owner: PeerGateway, id: ChunkId, { signal }: ChunkRequest): Promise<Chunk | undefined> {
    const either = signal ? AbortSignal.any([signal, owner.gone]) : owner.gone;
    for (let retry = 0; ; retry += 1) {
      try {
        const chunk = await owner.fetched.get(id, { signal: either });
        this.counts.peerFetched += 1;
        return chunk;
      } catch (error) {
        signal?.throwIfAborted();
        const isUnknown = error instanceof SitecastError && error.code === 'SITECAST_CHUNK_NOT_FOUND';
        if (isUnknown && retry < UNKNOWN_RETRIES && (await sleep(UNKNOWN_RETRY_MS, either))) continue;
        if (!owner.gone.aborted && !(error instanceof SitecastError)) throw error;
        this.#deps.peerGateways.rest(owner.id);
        return undefined;
      }
    }
  }

  async #askAnyOther(
    id: ChunkId,
    request: ChunkRequest,
    failed: ReadonlySet<string>,
  ): Promise<Chunk | undefined> {
    for (const peerGateway of this.#deps.peerGateways.able) {
      const chunk = failed.has(peerGateway.id) ? undefined : await this.#ask(peerGateway, id, request);
      if (chunk) return chunk;
    }
    return undefined;
  }

  /** Over the WAN, unless another gateway of the site has it by now, or a device holds it. */
  async #fetchHere(
    id: ChunkId,
    request: ChunkRequest,
    store: ChunkStore,
    outOfTurn: 'takeovers' | 'disagreements' | undefined,
  ): Promise<Chunk> {
    for (const { held, gone } of this.#deps.peerGateways.able) {
      try {
        const signal = request.signal ? AbortSignal.any([request.signal, gone]) : gone;
        const chunk = await held.get(id, { signal });
        this.counts.peerHeld += 1;
        return chunk;
      } catch (error) {
        request.signal?.throwIfAborted();
        // It was a question; the WAN is there for the answer.
        if (!gone.aborted && !(error instanceof SitecastError)) throw error;
      }
    }
    const held = await this.#deps.fromDevices?.(id, request);
    if (held) {
      this.counts.siteDevices += 1;
      return held;
    }
    const chunk = await store.get(id, request);
    if (outOfTurn) this.counts[outOfTurn] += 1;
    return chunk;
  }

  #ableIds(): string[] {
    return [this.#deps.ownId, ...this.#deps.peerGateways.able.map(({ id }) => id)];
  }

  #ownerAmong(id: ChunkId, ids: readonly string[]): string {
    return ownerOf(chunkIdToHex(id), ids);
  }
}
