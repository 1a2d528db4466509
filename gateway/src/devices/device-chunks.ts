import {
  type Chunk,
  type ChunkId,
  ChunkIndex,
  type ChunkRequest,
  type ChunkStore,
  chunkIdFromHex,
  chunkNotFound,
  sameChunkId,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { LRUCache } from 'lru-cache';
import pLimit from 'p-limit';
import { sleep } from '@sitecast/shared/async';
import type { Log } from '@sitecast/shared/log';
import type { SubscribedImage, SiteNode } from './site-node.ts';
import type { Holder, Tracker } from './tracker.ts';

// Who can send this: devices of the site, by their assignment, and whoever multicast DNS finds. The worst: a device that says it
// holds what it hasn't, or hangs (seconds for the chunks that were asked of it, then it's left); wrong bytes (checked before
// anybody sees them; it's left for an hour, logged and counted).

/** Images that are followed at one time: a device serves so many streams of one asker. */
const MAX_FOLLOWED = 2;
/** Devices with a link for one image; and those that are tried until so many are linked. */
const MAX_LINKED = 8;
const MAX_MET = 16;
/** Of those, machines that no device's word but multicast DNS has brought. */
const MAX_FOUND_MET = 4;
/** An image of more chunks isn't looked for at devices: 16 GiB at the default chunk size. */
export const MAX_FOLLOWED_CHUNKS = 262_144;
/** Images that are looked at together, those that most devices hold; their indexes are kept. */
const MAX_CANDIDATES = 8;
/** How often it's looked which devices hold more than this gateway, while chunks are missing. */
const LOOK_EVERY_MS = 2000;
/** So much more of an image, as a share of it, a device must hold than the site's gateways can. */
const WORTH_ASKING = 0.1;
/** Chunks of an image that are looked up to know how much of it is here. */
const SAMPLES = 256;
/** How long chunks wait for devices that were just met to say what they hold. */
const TOLD_WITHIN_MS = 2000;
const LOOK_AGAIN_MS = 20;
/** What a device has for one chunk. */
const DEVICE_WITHIN_MS = 4000;
/** For one chunk, waiting for its turn included: then it's fetched elsewhere. */
const CHUNK_WITHIN_MS = 8000;
const MAX_ASKED_AT_ONCE = 8;
/** No chunk was missing for so long: the links are ended. */
const IDLE_MS = 60_000;
const BANNED_FOR_MS = 3_600_000;
const MAX_BANNED = 256;
/** Right after the start devices haven't said yet what they hold; they do within so long. */
const HEAR_FIRST_MS = 20_000;

interface DeviceChunksDeps {
  node: Pick<SiteNode, 'follow' | 'found'>;
  tracker: Pick<Tracker, 'holders' | 'has'>;
  /** A mirrored index, by its SHA-256 in hex; undefined where the set lists no such, or it isn't here. */
  indexBytes: (image: string) => Promise<Uint8Array | undefined>;
  cache: { has(id: ChunkId): Promise<boolean> };
  /** This gateway's own assignment; undefined where it has none. */
  credential: () => Promise<Uint8Array | undefined>;
  /** Gateways of the site that live, this one included. */
  siteGateways: () => number;
  /** What a device is called. */
  nameOf: (id: string) => string | undefined;
  onRefused: (code: string) => void;
  /** How many times longer than usual devices are waited for: only tests on busy machines need that. */
  patience?: number;
  /** Milliseconds on a clock that never goes back. */
  now?: () => number;
  log: Log;
}

interface Followed {
  readonly image: SubscribedImage;
  readonly openedMs: number;
  /** Devices that told this gateway of themselves. */
  readonly met: Set<string>;
  /** Machines that multicast DNS has brought. */
  readonly foundMet: Set<string>;
  usedMs: number;
}

/**
 * Chunks that devices of the site hold and this gateway lacks: after its disk was emptied, or was too small. Devices are spoken
 * to only while chunks are missing, and only where they say that they hold clearly more of an image than the site's gateways
 * can: while an update comes in over the WAN, none does.
 */
export class DeviceChunks implements ChunkStore {
  readonly name = 'devices of the site';
  readonly #deps: DeviceChunksDeps;
  readonly #now: () => number;
  readonly #patience: number;
  readonly #followed = new Map<string, Followed>();
  readonly #indexes = new LRUCache<string, ChunkIndex>({ max: MAX_CANDIDATES });
  readonly #banned = new LRUCache<string, true>({ max: MAX_BANNED, ttl: BANNED_FOR_MS });
  readonly #turn = pLimit(MAX_ASKED_AT_ONCE);
  #looking: Promise<void> | undefined;
  #lookedMs = Number.NEGATIVE_INFINITY;
  #beganMs: number | undefined;

  constructor(deps: DeviceChunksDeps) {
    this.#deps = deps;
    this.#now = deps.now ?? (() => performance.now());
    this.#patience = deps.patience ?? 1;
  }

  /** Devices that are linked now. */
  get linked(): number {
    return [...this.#followed.values()].reduce((sum, { image }) => sum + image.linked, 0);
  }

  /**
   * Whether who can wait had better wait before he fetches an image over the WAN: devices may be about to say that they hold it.
   * @param chunks of the image
   */
  isTooEarly(image: string, chunks: number): boolean {
    this.#beganMs ??= this.#now();
    if (this.#now() - this.#beganMs >= HEAR_FIRST_MS * this.#patience) return false;
    const [most] = this.#deps.tracker.holders().get(image) ?? [];
    return most === undefined || most.chunks < chunks;
  }

  /** Whether a device that can be asked says that it holds the chunk. */
  async has(id: ChunkId, { signal }: ChunkRequest = {}): Promise<boolean> {
    signal?.throwIfAborted();
    await this.#look(id);
    for (const { image } of this.#followed.values())
      if (image.isOfImage(id) && (await image.chunks.has(id))) return true;
    return false;
  }

  /** The chunk, verified. @throws SITECAST_CHUNK_NOT_FOUND, at once where no device says that it holds the chunk */
  async get(id: ChunkId, { signal }: ChunkRequest = {}): Promise<Chunk> {
    signal?.throwIfAborted();
    await this.#look(id);
    for (const followed of this.#followed.values()) {
      if (!followed.image.isOfImage(id)) continue;
      followed.usedMs = this.#now();
      const chunk = await this.#ask(followed, id, signal);
      if (chunk) return chunk;
    }
    throw chunkNotFound(id, this);
  }

  /** Until the signal comes: ends links that nobody needs any more, at last all. */
  async run(signal: AbortSignal): Promise<void> {
    while (await sleep(LOOK_EVERY_MS, signal)) {
      for (const [image, { usedMs }] of this.#followed)
        if (this.#now() - usedMs > IDLE_MS) await this.#close(image);
    }
    for (const image of this.#followed.keys()) await this.#close(image);
  }

  async #ask(followed: Followed, id: ChunkId, signal: AbortSignal | undefined): Promise<Chunk | undefined> {
    const late = AbortSignal.timeout(CHUNK_WITHIN_MS * this.#patience);
    const either = signal ? AbortSignal.any([signal, late]) : late;
    const { chunks } = followed.image;
    const ask = async (): Promise<Chunk | undefined> => {
      try {
        return await chunks.get(id, { signal: either });
      } catch (error) {
        signal?.throwIfAborted();
        // It was worth a question; there are other ways to the chunk.
        if (late.aborted || error instanceof SitecastError) return undefined;
        throw error;
      }
    };
    for (;;) {
      await this.#untilTold(followed, id, either);
      if (!(await chunks.has(id))) return undefined;
      const chunk = await this.#turn(ask);
      // The first to say what it holds may be a liar: others that were met with it may say so only now.
      if (chunk || late.aborted || !this.#isTelling(followed)) return chunk;
      if (!(await sleep(LOOK_AGAIN_MS, either))) return undefined;
    }
  }

  async #untilTold(followed: Followed, id: ChunkId, signal: AbortSignal): Promise<void> {
    while (this.#isTelling(followed)) {
      if ((await followed.image.chunks.has(id)) || !(await sleep(LOOK_AGAIN_MS, signal))) return;
    }
  }

  /** Whether devices that were just met may be about to say what they hold. */
  #isTelling({ image, openedMs, met }: Followed): boolean {
    return this.#now() - openedMs < TOLD_WITHIN_MS * this.#patience && image.told < met.size;
  }

  /** Sees to it that devices are linked that are worth asking for the chunk; many who ask look once. */
  async #look(id: ChunkId): Promise<void> {
    if (!this.#looking && this.#now() - this.#lookedMs < LOOK_EVERY_MS) return;
    this.#looking ??= this.#lookNow(Uint8Array.from(id))
      // An index that can't be read just now, say: there are other ways to the chunk.
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
      const followed = this.#followed.get(image) ?? (await this.#follow(image, holders, id));
      if (followed) this.#meet(followed, holders);
    }
  }

  async #follow(image: string, holders: readonly Holder[], missing: ChunkId): Promise<Followed | undefined> {
    if (this.#followed.size >= MAX_FOLLOWED) return undefined;
    const index = await this.#indexOf(image);
    if (!index || !names(index, missing) || !(await this.#isWorthAsking(index, holders))) return undefined;
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
    const followed: Followed = {
      image: this.#deps.node.follow(wanted),
      openedMs: nowMs,
      usedMs: nowMs,
      met: new Set(),
      foundMet: new Set(),
    };
    this.#followed.set(image, followed);
    this.#deps.log.info({ image, devices: holders.length }, 'devices of the site hold what is missing here');
    return followed;
  }

  /** At first as many as may be linked; later more, for those that came to nothing. */
  #meet({ image, met, foundMet }: Followed, holders: readonly Holder[]): void {
    const { node, tracker } = this.#deps;
    const most = Math.min(MAX_MET, met.size + MAX_LINKED - image.linked);
    for (const { peer } of holders) {
      if (met.size >= most) return;
      if (met.has(peer.id) || this.#banned.has(peer.id)) continue;
      met.add(peer.id);
      image.meet(peer);
    }
    for (const peer of node.found) {
      if (met.size + foundMet.size >= most || foundMet.size >= MAX_FOUND_MET) return;
      // Who tells this gateway of itself was looked at above.
      if (tracker.has(peer.id) || foundMet.has(peer.id) || this.#banned.has(peer.id)) continue;
      foundMet.add(peer.id);
      image.meet(peer);
    }
  }

  /** What came over the WAN lies here, or at another gateway: who fetches along never holds clearly more than all of them. */
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
      if (!index || index.count > MAX_FOLLOWED_CHUNKS) return undefined;
      this.#indexes.set(image, index);
      return index;
    } catch (error) {
      // A later format.
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
    const followed = this.#followed.get(image);
    this.#followed.delete(image);
    await followed?.image.close();
  }
}

function names(index: ChunkIndex, id: ChunkId): boolean {
  for (let at = 0; at < index.count; at += 1) if (sameChunkId(index.idAt(at), id)) return true;
  return false;
}
