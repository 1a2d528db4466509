import { sleep as sleepUntil } from '@sitecast/shared/async';
import { SitecastError } from '@sitecast/shared/errors';
import { namedPeersSchema, type PeerNotice } from '@sitecast/shared/api';
import type { FoundPeer, Gateway } from '../ports.ts';
import type { Gateways } from '../upstream/gateways.ts';

// A gateway answers, or any machine in its place. The worst answer names addresses of third parties. There are few of them, and this device
// only makes a TCP connection with a handshake to each.

const PATH = '/site/v1/peers';
/** Milliseconds between two notices to a gateway, doubled each time, and reset with each new image. */
const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 60_000;
/** The longest wait for a gateway that doesn't answer or doesn't know this device yet: it may have been restarted. */
const MAX_PAUSE_UNHEARD_MS = 15_000;
const JITTER = 0.2;

interface PeerTrackerOptions {
  gateways: Pick<Gateways, 'all' | 'post'>;
  /** The notice to send; undefined: there is none yet. */
  notice: () => PeerNotice | undefined;
  onPeers: (peers: readonly FoundPeer[]) => void;
  /** Resolves after that many milliseconds, or when the signal fires. */
  sleep?: (ms: number, signal: AbortSignal) => Promise<void>;
}

/** Announces to the gateways what this device holds and fetches, and learns from them of its peers. */
export class PeerTracker {
  readonly #options: PeerTrackerOptions;
  #nudged = new AbortController();

  constructor(options: PeerTrackerOptions) {
    this.#options = options;
  }

  /** Called when there is something new to announce, or when a gateway needs the announcement again. */
  nudge(): void {
    const before = this.#nudged;
    this.#nudged = new AbortController();
    before.abort();
  }

  /** Runs until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.all(this.#options.gateways.all.map(gateway => this.#keepTelling(gateway, signal)));
  }

  async #keepTelling(gateway: Gateway, signal: AbortSignal): Promise<void> {
    const { sleep = sleepUntil } = this.#options;
    for (let pauseMs = FIRST_PAUSE_MS; !signal.aborted; ) {
      const nudged = this.#nudged.signal;
      const isHeard = await this.#tell(gateway, signal);
      const jitteredMs = pauseMs * (1 + JITTER * (2 * Math.random() - 1));
      pauseMs = Math.min(2 * pauseMs, isHeard ? MAX_PAUSE_MS : MAX_PAUSE_UNHEARD_MS);
      await sleep(jitteredMs, AbortSignal.any([signal, nudged]));
      if (nudged.aborted) pauseMs = FIRST_PAUSE_MS;
    }
  }

  /** @returns whether the gateway has stored the notice, as far as that can be known */
  async #tell(gateway: Gateway, signal: AbortSignal): Promise<boolean> {
    const { gateways, notice, onPeers } = this.#options;
    const told = notice();
    if (!told) return true;
    try {
      const { status, body } = await gateways.post(gateway, PATH, told, signal);
      const named = namedPeersSchema.safeParse(body);
      if (status === 200 && named.success) onPeers(named.data.peers);
      // An origin, or a gateway of an earlier release, doesn't know the path.
      return status === 200 || status === 404;
    } catch (error) {
      // The gateway can't be reached. Other gateways and multicast DNS name peers meanwhile.
      if (!(error instanceof SitecastError) && !signal.aborted) throw error;
      return false;
    }
  }
}
