import {
  type Chunk,
  type ChunkId,
  type ChunkIndex,
  type ChunkRequest,
  type ChunkStore,
} from '../../content/index.ts';
import { chunkNotFound } from '../../content/store/chunk-store.ts';
import { SitecastError } from '../../errors.ts';
import { FetchRun, type FetchOptions } from './fetch-run.ts';
import { PeakRate } from './peak-rate.ts';
import { Picker } from './picker.ts';
import { gatewaySlots, peerSlots } from './slots.ts';
import { Source } from './source.ts';

/**
 * A source is far if its answers begin after this many times the duration of a chunk at this machine's rate. A full queue on the way makes
 * two.
 */
const FAR_TIMES = 3;
/** A chunk that takes less time is over before the next one has been requested, read and written. */
const SHORT_MS = 20;
const SLOTS_OF_SHORT = 3;

/** A peer that returns only verified chunks (`PeerStore` does). */
export interface SwarmPeer {
  readonly peer: string;
  readonly name: string;
  get(id: ChunkId, request?: ChunkRequest): Promise<Chunk>;
}

export interface SwarmStoreOptions {
  readonly index: ChunkIndex;
  /** This machine's id. */
  readonly self: string;
  /** The gateways as one store; undefined where there is none. Its chunks are verified here. */
  readonly gateway: ChunkStore | undefined;
  /** Called when a source has sent wrong bytes. It isn't asked again while this store is in use. */
  readonly onBan?: (source: string, error: SitecastError) => void;
  /** Called when a chunk from this peer was used. */
  readonly onFromPeer?: (peer: string, lengthBytes: number) => void;
  /** Milliseconds on a clock that never goes back. */
  readonly now?: () => number;
  /** Like `setInterval`, on the same clock. @returns a function that ends it */
  readonly every?: (periodMs: number, act: () => void) => () => void;
  readonly random?: () => number;
}

/** The chunks of one image, from many peers and a gateway together. */
export class SwarmStore implements ChunkStore {
  readonly name = 'the swarm';
  readonly picker: Picker;
  readonly #options: SwarmStoreOptions;
  readonly #now: () => number;
  readonly #gateway: Source | undefined;
  readonly #peers = new Map<string, Source>();
  readonly #banned = new Set<string>();
  readonly #rate = new PeakRate();
  #run: FetchRun | undefined;

  constructor(options: SwarmStoreOptions) {
    const { index, self, gateway, now = () => performance.now(), random = Math.random } = options;
    this.#options = options;
    this.#now = now;
    this.#gateway =
      gateway &&
      new Source(
        gateway.name,
        source => this.#enough(gatewaySlots(1 + this.picker.fetching), source),
        checked(gateway),
      );
    this.picker = new Picker({ index, self, random, nowMs: now() });
  }

  /** @returns false for a banned peer, and where there are too many */
  addPeer(peer: SwarmPeer): boolean {
    if (this.#banned.has(peer.peer) || !this.picker.addPeer(peer.peer, this.#now())) return false;
    if (!this.#peers.has(peer.peer))
      this.#peers.set(
        peer.peer,
        new Source(peer.peer, source => this.#enough(peerSlots(this.#peers.size), source), peer),
      );
    return true;
  }

  /** Called when the peer has left. Requests to it fail by themselves. */
  removePeer(id: string): void {
    this.#peers.delete(id);
    this.picker.removePeer(id, this.#now());
    this.#run?.wake();
  }

  /** Called when a peer announces chunks, in addition to earlier ones. */
  onHave(id: string, added: readonly number[], isFetching: boolean): void {
    this.picker.onHave(id, added, isFetching, this.#now());
    this.#run?.wake();
  }

  get peers(): string[] {
    return [...this.#peers.keys()];
  }

  /**
   * Fetches chunks in the order that is best for all machines together, each from one of the sources.
   * @param wanted numbers of chunks in the index; for a repeated chunk, one of its places is enough
   * @throws SITECAST_STORE_UNREACHABLE when nothing has arrived for too long; the signal's reason; errors of `deliver`
   */
  async fetch(wanted: Iterable<number>, options: FetchOptions): Promise<void> {
    if (this.#run) throw new TypeError('one fetch at a time');
    this.picker.start(this.#now());
    for (const at of wanted) this.picker.want(at);
    this.#run = new FetchRun(
      {
        index: this.#options.index,
        picker: this.picker,
        gateway: () => this.#gateway,
        peers: this.#peers,
        now: this.#now,
        every: this.#options.every ?? everyInterval,
        onMisbehaviour: (source, error) => this.#ban(source, error),
        onGone: source => this.removePeer(source.name),
        onTaken: (source, lengthBytes) => {
          this.#rate.took(lengthBytes, this.#now());
          if (source !== this.#gateway) this.#options.onFromPeer?.(source.name, lengthBytes);
        },
      },
      options,
    );
    try {
      await this.#run.result;
    } finally {
      this.#run = undefined;
    }
  }

  async has(id: ChunkId, request: ChunkRequest = {}): Promise<boolean> {
    request.signal?.throwIfAborted();
    const at = this.#options.index.find(id);
    if (at !== undefined && this.picker.holdersOf(at).length > 0) return true;
    return (await this.#options.gateway?.has(id, request)) ?? false;
  }

  /** One chunk out of turn, verified: from its holders, then from the gateway. */
  async get(id: ChunkId, { signal }: ChunkRequest = {}): Promise<Chunk> {
    signal?.throwIfAborted();
    const at = this.#options.index.find(id);
    const holders = at === undefined ? [] : this.picker.holdersOf(at);
    const sources = [...holders.map(holder => this.#peers.get(holder)), this.#gateway];
    let last: unknown = chunkNotFound(id, this);
    for (const source of sources) {
      if (!source || this.#banned.has(source.name)) continue;
      try {
        return await source.get(id, { ...(signal && { signal }), ...this.#lengthOf(at) });
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof SitecastError)) throw error;
        if (error.kind === 'untrusted') this.#ban(source, error);
        last = error;
      }
    }
    throw last;
  }

  /** More slots where a chunk takes much less time than the pause until the next one: otherwise the link is idle in between. */
  #enough(slots: number, { latencyMs = 0 }: Source): number {
    const { index } = this.#options;
    const chunkMs = this.#rate.msFor(index.lengthBytes / index.count);
    const isShort = chunkMs < SHORT_MS || latencyMs > FAR_TIMES * chunkMs;
    return isShort ? Math.max(SLOTS_OF_SHORT, slots) : slots;
  }

  #lengthOf(at: number | undefined): { lengthBytes?: number } {
    return at === undefined ? {} : { lengthBytes: this.#options.index.lengthOf(at) };
  }

  #ban(source: Source, error: SitecastError): void {
    if (this.#banned.has(source.name)) return;
    this.#banned.add(source.name);
    source.ban();
    this.#options.onBan?.(source.name, error);
    this.removePeer(source.name);
  }
}

function everyInterval(periodMs: number, act: () => void): () => void {
  const timer = setInterval(act, periodMs);
  return () => clearInterval(timer);
}

function checked(store: ChunkStore) {
  return {
    get: async (id: ChunkId, request: ChunkRequest = {}) =>
      (await store.get(id, request)).verify(request.lengthBytes),
  };
}
