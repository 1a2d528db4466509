import {
  type Chunk,
  type ChunkId,
  ChunkIndex,
  type ChunkRequest,
  type ChunkStore,
  chunkIdFromHex,
  chunkNotFound,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import pLimit from 'p-limit';
import { sleep } from '@sitecast/shared/async';
import type { Log } from '@sitecast/shared/log';
import type { SubscribedImage, SiteNode } from './site-node.ts';
import type { Holder, Tracker } from './tracker.ts';
import { lruCache, type LruCache } from '@sitecast/shared/bounded';

// Senders: devices of the site, by their assignment, and machines that multicast DNS finds. The worst that they can do: announce chunks
// that they lack, or hang (each chunk requested from them waits some seconds, then they aren't asked any more); or send wrong bytes (these
// are verified before anything else sees them; the device is banned for an hour, logged and counted).

/** The most images that are subscribed to at a time: a device serves that many streams of one requester. */
const MAX_SUBSCRIBED = 2;
/** How many devices are linked for one image, and how many are tried until that many are linked. */
const MAX_LINKED = 8;
const MAX_TRIED = 16;
/** How many of the tried machines may be known from multicast DNS only. */
const MAX_DISCOVERED = 4;
/** Images with more chunks aren't requested from devices: 16 GiB at the default chunk size. */
export const MAX_SUBSCRIBED_CHUNKS = 262_144;
/** How many images are considered: those that most devices hold. Their indexes are kept in memory. */
const MAX_CANDIDATES = 8;
/** How often it checks which devices hold more than this gateway, while chunks are missing. */
const LOOK_EVERY_MS = 2000;
/** A device is asked only if it holds at least this share of the image more than the site's gateways can hold. */
const WORTH_ASKING = 0.1;
/** Chunks that are looked up to estimate how much of an image is cached here. */
const SAMPLES = 256;
/** How long a request waits for devices that were just added to announce their chunks. */
const ANNOUNCED_WITHIN_MS = 2000;
const LOOK_AGAIN_MS = 20;
/** How long one device may take for one chunk. */
const DEVICE_WITHIN_MS = 4000;
/** How long one chunk may take, with its wait for a turn. After that, it is fetched from another source. */
const CHUNK_WITHIN_MS = 8000;
const MAX_ASKED_AT_ONCE = 8;
/** Links are closed when no chunk was missing for this long. */
const IDLE_MS = 60_000;
const BANNED_FOR_MS = 3_600_000;
const MAX_BANNED = 256;
/** How long after this gateway's start devices need to announce their chunks. */
const HEAR_FIRST_MS = 20_000;

interface DeviceChunksDeps {
  node: Pick<SiteNode, 'subscribe' | 'discovered'>;
  tracker: Pick<Tracker, 'holders' | 'has'>;
  /** A mirrored index, by its SHA-256 in hex; undefined where the set does not list it, or its file is not here. */
  indexBytes: (image: string) => Promise<Uint8Array | undefined>;
  cache: { has(id: ChunkId): Promise<boolean> };
  /** This gateway's own assignment; undefined where it has none. */
  credential: () => Promise<Uint8Array | undefined>;
  /** How many gateways of the site live, this one included. */
  siteGateways: () => number;
  /** The name that people gave to a device. */
  nameOf: (id: string) => string | undefined;
  onRefused: (code: string) => void;
  /** By how much to lengthen its waits for devices: only tests on busy machines need that. */
  patience?: number;
  /** Milliseconds on a clock that never goes back. */
  now?: () => number;
  log: Log;
}

interface Subscription {
  readonly image: SubscribedImage;
  readonly openedMs: number;
  /** Ids of tried devices that have announced themselves to this gateway. */
  readonly tried: Set<string>;
  /** Ids of tried machines that only multicast DNS has found. */
  readonly discovered: Set<string>;
  usedMs: number;
}

/**
 * Chunks that devices of the site hold and this gateway lacks, for example because its disk was emptied or is too small. It asks devices
 * only while chunks are missing, and only those that announce clearly more of an image than the site's gateways can hold. While an update
 * is coming in over the WAN, no device does.
 */
export class DeviceChunks implements ChunkStore {
  readonly name = 'devices of the site';
  readonly #deps: DeviceChunksDeps;
  readonly #now: () => number;
  readonly #patience: number;
  readonly #subscriptions = new Map<string, Subscription>();
  readonly #indexes = lruCache<string, ChunkIndex>({ max: MAX_CANDIDATES });
  /** Devices that sent wrong bytes for any image. None of them is added again. */
  readonly #banned: LruCache<string, true>;
  readonly #turn = pLimit(MAX_ASKED_AT_ONCE);
  #looking: Promise<void> | undefined;
  #lookedMs = Number.NEGATIVE_INFINITY;
  #beganMs: number | undefined;

  constructor(deps: DeviceChunksDeps) {
    this.#deps = deps;
    this.#now = deps.now ?? (() => performance.now());
    this.#banned = lruCache({ max: MAX_BANNED, ttl: BANNED_FOR_MS, now: this.#now });
    this.#patience = deps.patience ?? 1;
  }

  /** How many devices are linked now. */
  get linked(): number {
    return [...this.#subscriptions.values()].reduce((sum, { image }) => sum + image.linked, 0);
  }

  /**
   * Whether a fetch over the WAN that can wait should wait, because devices may soon announce the image.
   * @param chunks of the image
   */
  isTooEarly(image: string, chunks: number): boolean {
    this.#beganMs ??= this.#now();
    if (this.#now() - this.#beganMs >= HEAR_FIRST_MS * this.#patience) return false;
    const [most] = this.#deps.tracker.holders().get(image) ?? [];
    return most === undefined || most.chunks < chunks;
  }

  /** Whether a device that can be asked has announced the chunk. */
  async has(id: ChunkId, { signal }: ChunkRequest = {}): Promise<boolean> {
    signal?.throwIfAborted();
    await this.#look(id);
    for (const { image } of this.#subscriptions.values())
      if (image.isOfImage(id) && (await image.chunks.has(id))) return true;
    return false;
  }

  /** The chunk, verified. @throws SITECAST_CHUNK_NOT_FOUND, at once where no device has announced the chunk */
  async get(id: ChunkId, { signal }: ChunkRequest = {}): Promise<Chunk> {
    signal?.throwIfAborted();
    await this.#look(id);
    for (const subscription of this.#subscriptions.values()) {
      if (!subscription.image.isOfImage(id)) continue;
      subscription.usedMs = this.#now();
      const chunk = await this.#ask(subscription, id, signal);
      if (chunk) return chunk;
    }
    throw chunkNotFound(id, this);
  }

  /** Closes links that are no longer used, until the signal fires; then closes all. */
  async run(signal: AbortSignal): Promise<void> {
    while (await sleep(LOOK_EVERY_MS, signal)) {
      for (const [image, { usedMs }] of this.#subscriptions)
        if (this.#now() - usedMs > IDLE_MS) await this.#close(image);
    }
    for (const image of this.#subscriptions.keys()) await this.#close(image);
  }

  async #ask(
    subscription: Subscription,
    id: ChunkId,
    signal: AbortSignal | undefined,
  ): Promise<Chunk | undefined> {
    const late = AbortSignal.timeout(CHUNK_WITHIN_MS * this.#patience);
    const either = signal ? AbortSignal.any([signal, late]) : late;
    const { chunks } = subscription.image;
    const ask = async (): Promise<Chunk | undefined> => {
      try {
        return await chunks.get(id, { signal: either });
      } catch (error) {
        signal?.throwIfAborted();
        // The chunk can come from other sources.
        if (late.aborted || error instanceof SitecastError) return undefined;
        throw error;
      }
    };
    for (;;) {
      await this.#untilAnnounced(subscription, id, either);
      if (!(await chunks.has(id))) return undefined;
      const chunk = await this.#turn(ask);
      // The first device to answer may be misbehaving. Others that were added with it may announce the chunk only now.
      if (chunk || late.aborted || !this.#isAnnouncing(subscription)) return chunk;
      if (!(await sleep(LOOK_AGAIN_MS, either))) return undefined;
    }
  }

  async #untilAnnounced(subscription: Subscription, id: ChunkId, signal: AbortSignal): Promise<void> {
    while (this.#isAnnouncing(subscription)) {
      if ((await subscription.image.chunks.has(id)) || !(await sleep(LOOK_AGAIN_MS, signal))) return;
    }
  }

  /** Whether devices that were just added may soon announce their chunks. */
  #isAnnouncing({ image, openedMs, tried }: Subscription): boolean {
    return this.#now() - openedMs < ANNOUNCED_WITHIN_MS * this.#patience && image.announced < tried.size;
  }

  /** Links devices that are worth asking for the chunk. Concurrent requests share one run. */
  async #look(id: ChunkId): Promise<void> {
    if (!this.#looking && this.#now() - this.#lookedMs < LOOK_EVERY_MS) return;
    this.#looking ??= this.#lookNow(Uint8Array.from(id))
      // For example an index that cannot be read just now. The chunk can come from other sources.
      .catch((error: unknown) =>
        this.#deps.log.warn({ err: error }, 'who holds a chunk could not be looked up'),
      )
      .finally(() => {
        this.#lookedMs = this.#now();
        this.#looking = undefined;
      });
    await this.#looking;
  }

  async #lookNow(id: ChunkId): Promise<void> {
    const candidates = [...this.#deps.tracker.holders()]
      .sort(([, one], [, other]) => other.length - one.length)
      .slice(0, MAX_CANDIDATES);
    for (const [image, holders] of candidates) {
      const subscription = this.#subscriptions.get(image) ?? (await this.#subscribe(image, holders, id));
      if (subscription) this.#addPeers(subscription, holders);
    }
  }

  async #subscribe(
    image: string,
    holders: readonly Holder[],
    missing: ChunkId,
  ): Promise<Subscription | undefined> {
    if (this.#subscriptions.size >= MAX_SUBSCRIBED) return undefined;
    const index = await this.#indexOf(image);
    if (!index || index.find(missing) === undefined || !(await this.#isWorthAsking(index, holders)))
      return undefined;
    const credential = await this.#deps.credential();
    if (!credential) return undefined;
    const id = chunkIdFromHex(image);
    const wanted = {
      id,
      index,
      credential,
      maxLinked: MAX_LINKED,
      deadlineMs: DEVICE_WITHIN_MS * this.#patience,
      onBan: this.#ban,
    };
    const nowMs = this.#now();
    const subscription: Subscription = {
      image: this.#deps.node.subscribe(wanted),
      openedMs: nowMs,
      usedMs: nowMs,
      tried: new Set(),
      discovered: new Set(),
    };
    this.#subscriptions.set(image, subscription);
    this.#deps.log.info({ image, devices: holders.length }, 'devices of the site hold what is missing here');
    return subscription;
  }

  /** Adds as many devices as may be linked; later others, in place of those that could not be linked. */
  #addPeers({ image, tried, discovered }: Subscription, holders: readonly Holder[]): void {
    const { node, tracker } = this.#deps;
    const most = Math.min(MAX_TRIED, tried.size + MAX_LINKED - image.linked);
    for (const { peer } of holders) {
      if (tried.size >= most) return;
      if (tried.has(peer.id) || this.#banned.has(peer.id)) continue;
      tried.add(peer.id);
      image.addPeer(peer);
    }
    for (const peer of node.discovered) {
      if (tried.size + discovered.size >= most || discovered.size >= MAX_DISCOVERED) return;
      // Devices that have announced themselves were considered above.
      if (tracker.has(peer.id) || discovered.has(peer.id) || this.#banned.has(peer.id)) continue;
      discovered.add(peer.id);
      image.addPeer(peer);
    }
  }

  /**
   * Whether a device holds clearly more than the site's gateways can. While an update comes over the WAN, none does: its chunks are at the
   * gateways.
   */
  async #isWorthAsking(index: ChunkIndex, [most]: readonly Holder[]): Promise<boolean> {
    const { cache, siteGateways } = this.#deps;
    const samples = Math.min(SAMPLES, index.count);
    let here = 0;
    for (let at = 0; at < samples; at += 1)
      if (await cache.has(index.idAt(Math.floor((at * index.count) / samples)))) here += 1;
    const theirs = (most?.chunks ?? 0) / index.count;
    return theirs > (here / samples) * siteGateways() + WORTH_ASKING;
  }

  async #indexOf(image: string): Promise<ChunkIndex | undefined> {
    const known = this.#indexes.get(image);
    if (known) return known;
    const bytes = await this.#deps.indexBytes(image);
    try {
      const index = bytes && ChunkIndex.decode(bytes);
      if (!index || index.count > MAX_SUBSCRIBED_CHUNKS) return undefined;
      this.#indexes.set(image, index);
      return index;
    } catch (error) {
      // The index has a later format. Its chunks must come from other sources.
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  readonly #ban = (id: string, { code }: SitecastError): void => {
    if (this.#banned.has(id)) return;
    this.#banned.set(id, true);
    this.#deps.onRefused(code);
    this.#deps.log.warn(
      { device: id, name: this.#deps.nameOf(id), code },
      'a device of this site gave a wrong chunk',
    );
  };

  async #close(image: string): Promise<void> {
    const subscription = this.#subscriptions.get(image);
    this.#subscriptions.delete(image);
    await subscription?.image.close();
  }
}
