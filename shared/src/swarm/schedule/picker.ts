import type { ChunkIndex } from '../../content/index.ts';
import { Bitfield } from '../chunks/holdings.ts';
import { ChunkPools } from './chunk-pools.ts';
import { Shares } from './shares.ts';

/** More peers aren't used: each costs one bit per chunk. */
export const MAX_PEERS = 64;
/** With at least this many holders, more of them make no difference. */
const MAX_RARITY = 8;
/** How many chunks of one pool are looked at before the next pool is tried. */
const MAX_DRAWS = 16;

/** The pool of owned chunks: no peer holds them, and this machine should fetch them from a gateway. */
const OWNED = 0;
/** The pool of unowned chunks: no peer holds them, and another machine should fetch them. */
const UNOWNED = 1;
/** The first pool of held chunks: those with one holder; then those with two, and so on. */
const HELD = 2;
const POOLS = HELD + MAX_RARITY;

/** A fetching peer counts as stuck when it has announced nothing for this long while this machine has made progress. */
export const STUCK_MS = 3000;
/** After this long without a chunk from any source, this machine asks a gateway for chunks of other machines' shares. */
export const PATIENCE_MS = 1000;
/** The same bound for the case that few chunks arrive: a peer is slow with its share. */
export const IDLE_MS = 500;
/** Both bounds grow with the number of peers, because announcements are rarer then. */
const PATIENCE_MS_PER_PEER = 40;

interface PeerView {
  readonly id: string;
  readonly bits: Bitfield;
  isFetching: boolean;
  /** Whether it fetches and isn't stuck: shares are divided among such peers. */
  isSharing: boolean;
  isHeard: boolean;
  newsMs: number;
}

/**
 * Decides which chunk to fetch next, and from which source. No I/O, no clock. Chunks are given by their numbers in the index.
 *
 * From peers it takes the rarest chunk first. From a gateway it first takes this machine's own share of the chunks that no peer holds: so
 * machines that fetch together take different chunks from it, and exchange them. It takes over the shares of machines that have stopped.
 */
export class Picker {
  readonly #index: ChunkIndex;
  readonly #shares: Shares;
  readonly #random: () => number;
  readonly #pools: ChunkPools;
  readonly #holders: Uint8Array;
  readonly #peers = new Map<string, PeerView>();
  /** The same peers as a list. Holders are looked up for each drawn chunk, without allocating more than the result. */
  #views: PeerView[] = [];
  #wanted: Bitfield;
  #fetching = 0;
  #unheard = 0;
  #progressMs: number;
  /** How long a request to the gateway takes. Other machines that fetch from it wait as long, and don't count as stuck meanwhile. */
  gatewayMs = 0;

  /** @param self this machine's id; @param random as `Math.random` */
  constructor(options: { index: ChunkIndex; self: string; random: () => number; nowMs: number }) {
    this.#index = options.index;
    this.#shares = new Shares(options.self);
    this.#random = options.random;
    this.#progressMs = options.nowMs;
    this.#pools = new ChunkPools(options.index.count, POOLS);
    this.#holders = new Uint8Array(options.index.count);
    this.#wanted = new Bitfield(options.index.count);
  }

  /** How many wanted chunks aren't here yet, including those under way. */
  get wanted(): number {
    return this.#wanted.size;
  }

  /** How many peers fetch the same image and aren't stuck, or haven't said yet whether they fetch. */
  get fetching(): number {
    return this.#fetching + this.#unheard;
  }

  /** Whether some wanted chunk has no holder. */
  get lacksHolders(): boolean {
    return this.#pools.sizeOf(OWNED) > 0 || this.#pools.sizeOf(UNOWNED) > 0;
  }

  /** Starts to measure progress. */
  start(nowMs: number): void {
    this.#progressMs = nowMs;
  }

  want(at: number): void {
    if (this.#wanted.add(at)) this.#sort(at);
  }

  /** Called when the chunk is here. */
  done(at: number, nowMs: number): void {
    this.#wanted.remove(at);
    this.#pools.remove(at);
    this.#progressMs = nowMs;
  }

  /** Called when the chunk is being fetched: it isn't picked again until `putBack`. */
  takeOut(at: number): void {
    this.#pools.remove(at);
  }

  /** Called when fetching the chunk has failed. */
  putBack(at: number): void {
    this.#sort(at);
  }

  /** @returns false where there are too many peers */
  addPeer(id: string, nowMs: number): boolean {
    if (this.#peers.has(id)) return true;
    if (this.#peers.size >= MAX_PEERS) return false;
    const peer: PeerView = {
      id,
      bits: new Bitfield(this.#index.count),
      isFetching: false,
      isSharing: false,
      isHeard: false,
      newsMs: nowMs,
    };
    this.#peers.set(id, peer);
    this.#views.push(peer);
    this.#unheard += 1;
    return true;
  }

  removePeer(id: string, nowMs: number): void {
    const peer = this.#peers.get(id);
    if (!peer) return;
    this.#peers.delete(id);
    this.#views = [...this.#peers.values()];
    if (!peer.isHeard) this.#unheard -= 1;
    for (let at = 0; peer.bits.size > 0 && at < this.#index.count; at += 1)
      if (peer.bits.has(at)) this.#countHolder(at, -1);
    if (peer.isSharing) this.#share();
    this.reshare(nowMs);
  }

  /** Called when a peer announces these chunks, in addition to earlier ones. */
  onHave(id: string, added: readonly number[], isFetching: boolean, nowMs: number): void {
    const peer = this.#peers.get(id);
    if (!peer) return;
    for (const at of added) if (peer.bits.add(at)) this.#countHolder(at, 1);
    if (added.length > 0) peer.newsMs = nowMs;
    peer.isFetching = isFetching;
    if (!peer.isHeard) this.#unheard -= 1;
    peer.isHeard = true;
    this.reshare(nowMs);
  }

  /** Called when a peer doesn't hold the chunk after all. */
  lost(id: string, at: number): void {
    const peer = this.#peers.get(id);
    if (!peer?.bits.has(at)) return;
    peer.bits.remove(at);
    this.#countHolder(at, -1);
  }

  holdersOf(at: number): string[] {
    const holders: string[] = [];
    for (let number = 0; number < this.#views.length; number += 1) {
      const peer = this.#views[number];
      if (peer?.bits.has(at)) holders.push(peer.id);
    }
    return holders;
  }

  /** A chunk of this machine's own share, for a gateway. */
  pickOwned(): number | undefined {
    return this.#pools.draw(OWNED, this.#random());
  }

  /**
   * The rarest chunk that a peer can give.
   * @param choose which of a chunk's holders to ask; undefined if none can take a request
   */
  pickHeld(
    choose: (holders: readonly string[]) => string | undefined,
  ): { at: number; peer: string } | undefined {
    for (let pool = HELD; pool < POOLS; pool += 1) {
      const draws = Math.min(MAX_DRAWS, this.#pools.sizeOf(pool));
      for (let draw = 0; draw < draws; draw += 1) {
        const at = this.#pools.draw(pool, this.#random());
        const peer = at === undefined ? undefined : choose(this.holdersOf(at));
        if (at !== undefined && peer !== undefined) return { at, peer };
      }
    }
    return undefined;
  }

  /**
   * Picks a chunk of another machine's share for a gateway, if no chunk has arrived for long enough, or this machine has been idle for long
   * enough. The longer that lasts, the more chunks qualify. Each machine begins with those for which it ranks next, so that not all fetch
   * the same.
   * @param idleMs how long this machine has been idle
   */
  pickUnowned(nowMs: number, idleMs: number): number | undefined {
    const longerMs = Math.max(this.gatewayMs, PATIENCE_MS_PER_PEER * this.#peers.size);
    const patience = Math.max(
      (nowMs - this.#progressMs) / (PATIENCE_MS + longerMs),
      idleMs / (IDLE_MS + longerMs),
    );
    if (patience < 1) return undefined;
    const draws = Math.min(MAX_DRAWS, this.#pools.sizeOf(UNOWNED));
    let best: { at: number; rank: number } | undefined;
    for (let draw = 0; draw < draws; draw += 1) {
      const at = this.#pools.draw(UNOWNED, this.#random());
      if (at === undefined) break;
      const rank = this.#shares.rankOf(this.#index.idAt(at));
      if (!best || rank < best.rank) best = { at, rank };
    }
    if (best) return patience >= best.rank ? best.at : undefined;
    for (let pool = HELD; pool < POOLS; pool += 1)
      if (this.#pools.sizeOf(pool) > 0) return this.#pools.draw(pool, this.#random());
    return undefined;
  }

  /** Checks again, as time passes, which peers count as fetching. */
  reshare(nowMs: number): void {
    let hasChanged = false;
    for (const peer of this.#views) {
      const isSharing = peer.isFetching && !this.#isStuck(peer, nowMs);
      hasChanged ||= isSharing !== peer.isSharing;
      peer.isSharing = isSharing;
    }
    if (hasChanged) this.#share();
  }

  /** Divides the chunks without holders among the machines again. */
  #share(): void {
    const sharers = this.#views.filter(peer => peer.isSharing).map(({ id }) => id);
    this.#fetching = sharers.length;
    this.#shares.setOthers(sharers);
    for (const at of [...this.#pools.membersOf(OWNED), ...this.#pools.membersOf(UNOWNED)]) this.#sort(at);
  }

  /** Whether the peer announces nothing while this machine makes progress, so that the cause isn't a common one. */
  #isStuck({ newsMs }: PeerView, nowMs: number): boolean {
    const stuckMs = STUCK_MS + this.gatewayMs;
    return nowMs - newsMs > stuckMs && this.#progressMs - newsMs > stuckMs;
  }

  #countHolder(at: number, change: 1 | -1): void {
    this.#holders[at] = (this.#holders[at] ?? 0) + change;
    if (this.#pools.has(at)) this.#sort(at);
  }

  #sort(at: number): void {
    if (!this.#wanted.has(at)) return;
    const holders = this.#holders[at] ?? 0;
    if (holders > 0) this.#pools.put(at, HELD + Math.min(holders, MAX_RARITY) - 1);
    else this.#pools.put(at, this.#shares.rankOf(this.#index.idAt(at)) === 0 ? OWNED : UNOWNED);
  }
}
