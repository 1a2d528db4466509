import type { ChunkIndex } from '../../content/index.ts';
import { Bitfield } from '../chunks/holdings.ts';
import { ChunkPools } from './chunk-pools.ts';
import { Shares } from './shares.ts';

/** Further peers aren't used: each costs a bit a chunk. */
export const MAX_PEERS = 64;
/** From this many holders on, more of them make no difference. */
const MAX_RARITY = 8;
/** Chunks of one pool that are looked at before the next pool is tried. */
const MAX_DRAWS = 16;

/** Owned: no peer holds them, and this machine is to fetch them from a gateway. */
const OWN = 0;
/** Unowned: no peer holds them, and another machine is to fetch them. */
const FOREIGN = 1;
/** From here on: held by one peer, by two … */
const HELD = 2;
const POOLS = HELD + MAX_RARITY;

/** A fetching peer counts as stuck when it has announced nothing for so long, and this machine has made progress since. */
export const STUCK_MS = 3000;
/** How long nothing may come from any source before this machine asks a gateway for what other machines were to fetch. */
export const PATIENCE_MS = 1000;
/** The same where little comes: a peer is slow with its share. */
export const IDLE_MS = 500;
/** Both are longer with more peers: what these have is told less often then. */
const PATIENCE_MS_PER_PEER = 40;

interface PeerView {
  readonly id: string;
  readonly bits: Bitfield;
  isFetching: boolean;
  /** It fetches, and isn't stuck: shares are between such peers. */
  isSharing: boolean;
  isHeard: boolean;
  newsMs: number;
}

/**
 * Which chunk to fetch next, and from which source: no I/O, no clock. Chunks are known by their number in the index.
 *
 * From peers, the rarest first. From a gateway, first this machine's own share of what no peer holds. So machines that
 * fetch together take different chunks from it, and swap them. This machine takes over the shares of those that have stopped.
 */
export class Picker {
  readonly #index: ChunkIndex;
  readonly #shares: Shares;
  readonly #random: () => number;
  readonly #pools: ChunkPools;
  readonly #holders: Uint8Array;
  readonly #peers = new Map<string, PeerView>();
  /** The same peers. Holders are looked up for each chunk that is drawn, so nothing is allocated for that but the answer. */
  #views: PeerView[] = [];
  #wanted: Bitfield;
  #fetching = 0;
  #unheard = 0;
  #progressMs: number;
  /** What a request to the gateway takes: others that fetch from it wait as long, and aren't stuck meanwhile. */
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

  /** Number of chunks that are wanted and not here yet, those under way included. */
  get wanted(): number {
    return this.#wanted.size;
  }

  /** Number of peers that fetch the same image and aren't stuck, or haven't said yet whether they do. */
  get fetching(): number {
    return this.#fetching + this.#unheard;
  }

  /** Whether a chunk is wanted that no peer holds. */
  get lacksHolders(): boolean {
    return this.#pools.sizeOf(OWN) > 0 || this.#pools.sizeOf(FOREIGN) > 0;
  }

  /** Progress is measured from now on. */
  start(nowMs: number): void {
    this.#progressMs = nowMs;
  }

  want(at: number): void {
    if (this.#wanted.add(at)) this.#sort(at);
  }

  /** The chunk is here. */
  done(at: number, nowMs: number): void {
    this.#wanted.remove(at);
    this.#pools.remove(at);
    this.#progressMs = nowMs;
  }

  /** The chunk is being fetched: it isn't picked again until `putBack`. */
  takeOut(at: number): void {
    this.#pools.remove(at);
  }

  /** Fetching the chunk has failed. */
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

  /** A peer announces these chunks, besides those of before. */
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

  /** A peer doesn't hold the chunk after all. */
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
    return this.#pools.draw(OWN, this.#random());
  }

  /**
   * The rarest chunk that a peer can give.
   * @param choose which of a chunk's holders is to be asked; undefined if none can take a request
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
   * A chunk that other machines were to fetch or to give, for a gateway, once nothing has come for long enough, or hardly anything is on its
   * way. The longer that lasts, the more of them. Each machine begins with those for which it is next, so that not all fetch the same.
   * @param idleMs for how long hardly anything is on its way here
   */
  pickUnowned(nowMs: number, idleMs: number): number | undefined {
    const longerMs = Math.max(this.gatewayMs, PATIENCE_MS_PER_PEER * this.#peers.size);
    const patience = Math.max(
      (nowMs - this.#progressMs) / (PATIENCE_MS + longerMs),
      idleMs / (IDLE_MS + longerMs),
    );
    if (patience < 1) return undefined;
    const draws = Math.min(MAX_DRAWS, this.#pools.sizeOf(FOREIGN));
    let best: { at: number; rank: number } | undefined;
    for (let draw = 0; draw < draws; draw += 1) {
      const at = this.#pools.draw(FOREIGN, this.#random());
      if (at === undefined) break;
      const rank = this.#shares.rankOf(this.#index.idAt(at));
      if (!best || rank < best.rank) best = { at, rank };
    }
    if (best) return patience >= best.rank ? best.at : undefined;
    for (let pool = HELD; pool < POOLS; pool += 1)
      if (this.#pools.sizeOf(pool) > 0) return this.#pools.draw(pool, this.#random());
    return undefined;
  }

  /** Looks again, as time passes, which peers fetch along. */
  reshare(nowMs: number): void {
    let hasChanged = false;
    for (const peer of this.#views) {
      const isSharing = peer.isFetching && !this.#isStuck(peer, nowMs);
      hasChanged ||= isSharing !== peer.isSharing;
      peer.isSharing = isSharing;
    }
    if (hasChanged) this.#share();
  }

  /** Chunks that nobody holds are shared out anew. */
  #share(): void {
    const sharers = this.#views.filter(peer => peer.isSharing).map(({ id }) => id);
    this.#fetching = sharers.length;
    this.#shares.setOthers(sharers);
    for (const at of [...this.#pools.membersOf(OWN), ...this.#pools.membersOf(FOREIGN)]) this.#sort(at);
  }

  /** The peer announces nothing while this machine makes progress: so the cause isn't that no machine gets anything. */
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
    else this.#pools.put(at, this.#shares.rankOf(this.#index.idAt(at)) === 0 ? OWN : FOREIGN);
  }
}
