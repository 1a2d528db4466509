import { forEachBounded } from '@sitecast/shared/async';
import type { PeerNotice } from '@sitecast/shared/api';
import type { ChunkStore } from '@sitecast/shared/content';
import type { SlotRecord } from '../state/agent-state.ts';
import type {
  FoundPeer,
  HeldImage,
  PeerCounts,
  PeerFetch,
  SiteImage,
  SitePeers,
  Slot,
  SlotName,
} from '../ports.ts';
import type { Gateways } from '../upstream/gateways.ts';
import type { Admission } from './admission.ts';
import type { KnownPeers } from './known-peers.ts';
import { PeerTracker } from './peer-tracker.ts';
import { SharedSlots } from './shared-slots.ts';

/** How many devices are asked at a time whether they are up. */
const ASKED_AT_ONCE = 16;

interface SiteExchangeOptions {
  /** This device's id. */
  id: string;
  peers: SitePeers;
  slots: Readonly<Record<SlotName, Slot>>;
  /** The agent's own directory. */
  directory: string;
  gateways: Pick<Gateways, 'all' | 'post'>;
  admission: Admission;
  known: KnownPeers;
}

/** This device's exchange of chunks with its site: which chunks it serves, what it fetches from peers, and how peers learn of it. */
export class SiteExchange {
  readonly #options: SiteExchangeOptions;
  readonly #shared: SharedSlots;
  readonly #tracker: PeerTracker;
  /** By SHA-256 of the index, in hex. */
  readonly #lent = new Map<string, HeldImage>();
  readonly #stop = new AbortController();
  #tracking: Promise<void> = Promise.resolve();
  #isMember = false;

  constructor(options: SiteExchangeOptions) {
    this.#options = options;
    this.#shared = new SharedSlots(options);
    this.#tracker = new PeerTracker({
      gateways: options.gateways,
      notice: () => this.#notice(),
      onPeers: found => this.noteNamed(found),
    });
    options.peers.remember(options.known.all);
  }

  /** Serves what the slots hold, and announces it, until `close`. */
  async start(records: Readonly<Record<SlotName, SlotRecord>>): Promise<void> {
    await this.#shared.restore(records);
    this.#tracking = this.#tracker.run(this.#stop.signal);
  }

  /** Called when a gateway has named these devices. */
  noteNamed(found: readonly FoundPeer[]): void {
    this.#options.peers.note(found);
    void this.#options.known.note(found);
  }

  /** This device's id and addresses for other devices. */
  get self(): FoundPeer {
    const { id, peers } = this.#options;
    return { id, addresses: peers.addresses };
  }

  /** How many devices of the site this one knows of, itself included. */
  get knownDevices(): number {
    return this.#named.length + this.#options.peers.knownDevices().found + 1;
  }

  /**
   * Asks each device that a gateway has named whether it is up. Devices that only multicast DNS has found don't count: anyone can invent
   * them.
   * @returns how many of them don't answer, or are being updated
   */
  async outOfReach(signal: AbortSignal): Promise<{ named: number; away: number }> {
    const named = this.#named;
    let away = 0;
    await forEachBounded(named, ASKED_AT_ONCE, async id => {
      if (!(await this.#options.peers.isUp(id, signal))) away += 1;
    });
    return { named: named.length, away };
  }

  /** Ids of the devices that a gateway has named, without revoked ones. */
  get #named(): readonly string[] {
    const { peers, admission } = this.#options;
    return peers.knownDevices().named.filter(id => !admission.isRevoked(id));
  }

  /** Other devices that may serve signed files. */
  sources(): ReturnType<SitePeers['sources']> {
    return this.#options.peers.sources();
  }

  get counts(): PeerCounts {
    return this.#options.peers.counts;
  }

  /** Called when this device is enrolled. From now on, revoked machines aren't served. */
  follow(revoked: readonly string[]): void {
    for (const id of this.#options.admission.follow(revoked)) this.#options.peers.drop(id);
    if (this.#isMember) return;
    this.#isMember = true;
    this.#tracker.nudge();
  }

  /** Called when a gateway has closed the connection. If it was restarted, it doesn't know this device any more. */
  lostGateway(): void {
    this.#tracker.nudge();
  }

  /** Called before anything is written to a slot that held something else. */
  withdraw(slot: SlotName): Promise<void> {
    return this.#shared.end(slot);
  }

  /** Called when a download into a slot begins. @param isHere whether the chunk with this number is in its place already */
  async begin(
    slot: SlotName,
    image: SiteImage,
    isHere: (at: number) => boolean,
  ): Promise<HeldImage | undefined> {
    const held = await this.#shared.begin(slot, image, isHere);
    this.#tracker.nudge();
    return held;
  }

  /** Serves chunks that lie in no slot, such as patches, and announces them, until `end` of the result is called. */
  lend(image: SiteImage, chunks: ChunkStore): HeldImage {
    const held = this.#options.peers.hold(image, chunks);
    const name = Buffer.from(image.id).toString('hex');
    this.#lent.set(name, held);
    this.#tracker.nudge();
    return {
      get count() {
        return held.count;
      },
      add: at => held.add(at),
      settle: () => held.settle(),
      end: () => {
        this.#lent.delete(name);
        held.end();
      },
    };
  }

  /** @throws as `SitePeers.fetch` */
  fetch(image: SiteImage, wanted: Iterable<number>, options: PeerFetch): Promise<void> {
    return this.#options.peers.fetch(image, wanted, options);
  }

  /** Called when the slot was read back and is right. */
  settle(slot: SlotName): void {
    this.#shared.settle(slot);
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#tracking;
    await this.#options.peers.close();
    await this.#shared.close();
  }

  #notice(): PeerNotice | undefined {
    const { id, peers } = this.#options;
    const { addresses } = peers;
    if (!this.#isMember || addresses.length === 0) return undefined;
    const lent = Array.from(this.#lent, ([image, { count }]) => ({ image, count }));
    const holdings = [...this.#shared.holdings, ...lent];
    return {
      peer: { id, addresses: addresses.slice(0, 8) },
      images: holdings.map(({ image }) => image),
      held: holdings.map(({ count }) => count),
    };
  }
}
