import { randomInt } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import { MAX_NAMED_PEERS, type PeerNotice, type SitePeer } from '@sitecast/shared/api';
import type { Assignment } from '@sitecast/shared/fleet';
import { notYours } from '../reports/report-receiver.ts';
import { lruCache, type LruCache } from '@sitecast/shared/bounded';

// Senders: devices of the site, by their assignment. The worst notice has addresses of third parties, to which other devices then make
// connections that fail (eight per device, plain TCP); or it claims chunks that the device lacks, which costs the time of devices that ask
// for them.

/** How many devices are remembered. Those that were silent for the longest time are forgotten first. */
const MAX_TRACKED = 4096;
/** A device announces itself every minute at least. */
const TRACKED_FOR_MS = 3 * 60_000;

interface Tracked {
  peer: SitePeer;
  product: string | undefined;
  /** How many chunks it holds of each image. */
  images: ReadonlyMap<string, number>;
}

/** A device that announces chunks of an image. */
export interface Holder {
  peer: SitePeer;
  chunks: number;
}

interface TrackerDeps {
  /** The site that this gateway is assigned to; undefined before it is. */
  site: () => Promise<string | undefined>;
  /** @param address of the requester */
  assignmentOf: (id: string, address?: string) => Promise<Assignment | undefined>;
  isRevoked: (id: string) => boolean;
  /** Called when a device of this site has announced its addresses. */
  onAnnounced?: (peer: SitePeer) => void;
  now: () => number;
}

/**
 * Which devices of the site hold or fetch which image. Devices announce that, and are told of others. Kept only in memory, as devices
 * announce themselves again.
 */
export class Tracker {
  readonly #deps: TrackerDeps;
  readonly #tracked: LruCache<string, Tracked>;

  constructor(deps: TrackerDeps) {
    this.#deps = deps;
    this.#tracked = lruCache({ max: MAX_TRACKED, ttl: TRACKED_FOR_MS, now: deps.now });
  }

  get size(): number {
    this.#tracked.purgeStale();
    return this.#tracked.size;
  }

  /**
   * Notes what a device announces of itself.
   * @param sender the device that signed the request
   * @param address of the sender
   * @returns other devices: first those with one of its images, then those of its product, which may soon fetch the same
   * @throws SITECAST_NOT_YOURS, SITECAST_NO_ASSIGNMENT, SITECAST_OTHER_SITE (forbidden), SITECAST_NOT_ENROLLED (unreachable)
   */
  async announce(
    sender: string,
    { peer, images, held = [] }: PeerNotice,
    address?: string,
  ): Promise<SitePeer[]> {
    if (peer.id !== sender) throw notYours(peer.id);
    const { product } = await this.#admit(sender, address);
    this.#deps.onAnnounced?.(peer);
    const counts = new Map(images.map((image, at) => [image, held[at] ?? 0]));
    this.#tracked.set(sender, { peer, product, images: counts });
    return this.#others(sender, images, product);
  }

  /** For each image, the devices that announce chunks of it, those with the most first. */
  holders(): Map<string, Holder[]> {
    const byImage = new Map<string, Holder[]>();
    for (const [id, { peer, images }] of this.#tracked.entries()) {
      if (this.#deps.isRevoked(id)) continue;
      for (const [image, chunks] of images) {
        if (chunks === 0) continue;
        const holders = byImage.get(image) ?? [];
        holders.push({ peer, chunks });
        byImage.set(image, holders);
      }
    }
    for (const holders of byImage.values()) holders.sort((one, other) => other.chunks - one.chunks);
    return byImage;
  }

  has(id: string): boolean {
    return this.#tracked.has(id);
  }

  async #admit(id: string, address: string | undefined): Promise<Assignment> {
    const site = await this.#deps.site();
    if (site === undefined)
      throw new SitecastError('unreachable', 'SITECAST_NOT_ENROLLED', 'this gateway serves no site yet');
    const assignment = await this.#deps.assignmentOf(id, address);
    if (!assignment)
      throw new SitecastError(
        'forbidden',
        'SITECAST_NO_ASSIGNMENT',
        'nothing is assigned to this device yet',
      );
    if (assignment.site !== site)
      throw new SitecastError('forbidden', 'SITECAST_OTHER_SITE', 'this device belongs to another site');
    return assignment;
  }

  #others(sender: string, images: readonly string[], product: string | undefined): SitePeer[] {
    const [sharing, alike]: [SitePeer[], SitePeer[]] = [[], []];
    for (const [id, tracked] of this.#tracked.entries()) {
      if (id === sender || this.#deps.isRevoked(id)) continue;
      if (images.some(image => tracked.images.has(image))) sharing.push(tracked.peer);
      else if (product !== undefined && tracked.product === product) alike.push(tracked.peer);
    }
    const first = anyOf(sharing, MAX_NAMED_PEERS);
    return [...first, ...anyOf(alike, MAX_NAMED_PEERS - first.length)];
  }
}

/** A random choice, so that devices don't all ask the same few. */
function anyOf<T>(all: T[], count: number): T[] {
  for (let at = 0; at < Math.min(count, all.length); at += 1) {
    const other = randomInt(at, all.length);
    const [one, two] = [all[at], all[other]];
    if (one !== undefined && two !== undefined) [all[at], all[other]] = [two, one];
  }
  return all.slice(0, count);
}
