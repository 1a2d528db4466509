import {
  type Chunk,
  type ChunkId,
  type ChunkIndex,
  type ChunkRequest,
  type ChunkStore,
} from '../../content/index.ts';
import { chunkNotFound } from '../../content/store/chunk-store.ts';
import { SitecastError } from '../../errors.ts';
import { Bitfield } from '../chunks/holdings.ts';
import { Source } from './source.ts';
import { MAX_PEER_SLOTS } from './slots.ts';
import type { SwarmPeer } from './swarm-store.ts';

/** How many holders are asked for one chunk, one after the other. */
const MAX_ASKED = 2;

interface HolderStoreOptions {
  readonly index: ChunkIndex;
  /** The most peers at a time; each costs one bit per chunk. */
  readonly maxPeers: number;
  /** How long one peer may take for one chunk, from the request to its last byte. */
  readonly deadlineMs: number;
  /** Called when the peer has sent wrong bytes. It isn't asked again while this store is in use. */
  readonly onBan?: (peer: string, error: SitecastError) => void;
  /** Milliseconds on a clock that never goes back. */
  readonly now?: () => number;
}

interface Holder {
  readonly source: Source;
  readonly bits: Bitfield;
}

/**
 * Announced chunks of one image, fetched one at a time in the order of the requests: for a machine that also has other sources. A peer is
 * asked only for chunks that it has announced. If no peer has announced a chunk, `get` fails at once.
 */
export class HolderStore implements ChunkStore {
  readonly name = 'the peers that hold it';
  readonly #options: HolderStoreOptions;
  readonly #now: () => number;
  readonly #holders = new Map<string, Holder>();
  readonly #announced = new Set<string>();
  /** Peers that misbehaved, or sent nothing three times in a row. */
  readonly #left = new Set<string>();

  constructor(options: HolderStoreOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /** How many peers have announced what they hold, including those that have left since. */
  get announced(): number {
    return this.#announced.size;
  }

  /** How many peers can be asked. */
  get linked(): number {
    return this.#holders.size;
  }

  /** @returns false for a peer that was given up, and where there are too many */
  addPeer(peer: SwarmPeer): boolean {
    if (this.#holders.has(peer.peer)) return true;
    if (this.#left.has(peer.peer) || this.#holders.size >= this.#options.maxPeers) return false;
    const bits = new Bitfield(this.#options.index.count);
    this.#holders.set(peer.peer, { source: new Source(peer.peer, () => MAX_PEER_SLOTS, peer), bits });
    return true;
  }

  removePeer(id: string): void {
    this.#holders.delete(id);
  }

  /** Called when a peer announces that it holds these as well. */
  onHave(id: string, added: readonly number[]): void {
    const holder = this.#holders.get(id);
    if (!holder) return;
    this.#announced.add(id);
    for (const at of added) holder.bits.add(at);
  }

  /** Whether the image has the chunk. */
  isOfImage(id: ChunkId): boolean {
    return this.#options.index.find(id) !== undefined;
  }

  /** Whether a peer that can be asked has announced it. Sends no request. */
  async has(id: ChunkId, { signal }: ChunkRequest = {}): Promise<boolean> {
    signal?.throwIfAborted();
    const at = this.#options.index.find(id);
    return at !== undefined && this.#leastBusy(at, new Set()) !== undefined;
  }

  /**
   * The chunk, verified.
   * @throws SITECAST_CHUNK_NOT_FOUND where no peer holds it; else the error of the last peer that was asked
   */
  async get(id: ChunkId, { signal }: ChunkRequest = {}): Promise<Chunk> {
    signal?.throwIfAborted();
    const at = this.#options.index.find(id);
    const asked = new Set<string>();
    let last: unknown = chunkNotFound(id, this);
    if (at === undefined) throw last;
    while (asked.size < MAX_ASKED) {
      const holder = this.#leastBusy(at, asked);
      if (!holder) break;
      asked.add(holder.source.name);
      try {
        return await this.#ask(holder.source, at, signal);
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof SitecastError)) throw error;
        this.#failed(holder, at, error);
        last = error;
      }
    }
    throw last;
  }

  #leastBusy(at: number, but: ReadonlySet<string>): Holder | undefined {
    const nowMs = this.#now();
    let best: Holder | undefined;
    for (const [id, holder] of this.#holders) {
      const { source, bits } = holder;
      if (but.has(id) || !bits.has(at) || !source.mayBeAsked(nowMs)) continue;
      if (!best || source.underWay < best.source.underWay) best = holder;
    }
    return best;
  }

  async #ask(source: Source, at: number, signal: AbortSignal | undefined): Promise<Chunk> {
    const { index, deadlineMs } = this.#options;
    const deadline = AbortSignal.timeout(deadlineMs);
    const either = signal ? AbortSignal.any([signal, deadline]) : deadline;
    const beginMs = this.#now();
    try {
      const chunk = await source.get(index.idAt(at), { signal: either, lengthBytes: index.lengthOf(at) });
      source.gave(this.#now() - beginMs);
      return chunk;
    } catch (cause) {
      if (!deadline.aborted || cause instanceof SitecastError) throw cause;
      throw new SitecastError(
        'unreachable',
        'SITECAST_STORE_UNREACHABLE',
        `peer ${source.name} gave no chunk in ${deadlineMs} ms`,
        { data: { store: source.name }, cause },
      );
    }
  }

  #failed({ source, bits }: Holder, at: number, error: SitecastError): void {
    if (error.kind === 'untrusted' || error.kind === 'tooLarge') {
      this.#leave(source.name);
      this.#options.onBan?.(source.name, error);
    } else if (error.code === 'SITECAST_CHUNK_NOT_FOUND') bits.remove(at);
    else {
      source.failed(this.#now());
      if (source.isGone) this.#leave(source.name);
    }
  }

  #leave(id: string): void {
    this.#left.add(id);
    this.#holders.delete(id);
  }
}
