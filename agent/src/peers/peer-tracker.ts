import { setTimeout as sleep } from 'node:timers/promises';
import { SitecastError } from '@sitecast/shared/errors';
import { namedPeersSchema, type PeerNotice } from '@sitecast/shared/fleet';
import type { FoundPeer } from '../ports.ts';
import type { Gateways } from '../site/gateways.ts';

// Who answers this: a gateway, or whoever is in its place. The worst answer: addresses of third parties. They're few, plain
// TCP, and nothing but a handshake goes there.

const PATH = '/site/v1/peers';
/** How soon gateways are told again, milliseconds: doubled each time, from each new image on. */
const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 60_000;
const JITTER = 0.2;

interface PeerTrackerOptions {
  gateways: Pick<Gateways, 'all' | 'post'>;
  /** What to tell; undefined: nothing yet. */
  notice: () => PeerNotice | undefined;
  onPeers: (peers: readonly FoundPeer[]) => void;
}

/** Tells the gateways what this device holds and fetches, and hears from them who else does. */
export class PeerTracker {
  readonly #options: PeerTrackerOptions;
  #pauseMs = FIRST_PAUSE_MS;
  #nudged = new AbortController();

  constructor(options: PeerTrackerOptions) {
    this.#options = options;
  }

  /** There's something new to tell. */
  nudge(): void {
    this.#pauseMs = FIRST_PAUSE_MS;
    this.#nudged.abort();
  }

  /** Until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#nudged = new AbortController();
      await this.#tell(signal);
      const pauseMs = this.#pauseMs * (1 + JITTER * (2 * Math.random() - 1));
      this.#pauseMs = Math.min(2 * this.#pauseMs, MAX_PAUSE_MS);
      await sleep(pauseMs, undefined, { signal: AbortSignal.any([signal, this.#nudged.signal]) }).catch(
        () => {
          // Nudged, or at its end: the loop says which.
        },
      );
    }
  }

  async #tell(signal: AbortSignal): Promise<void> {
    const { gateways, notice, onPeers } = this.#options;
    const told = notice();
    if (!told) return;
    await Promise.all(
      gateways.all.map(async gateway => {
        try {
          const { status, body } = await gateways.post(gateway, PATH, told, signal);
          const named = namedPeersSchema.safeParse(body);
          // An origin, and an earlier gateway, know nothing of it.
          if (status === 200 && named.success) onPeers(named.data.peers);
        } catch (error) {
          // It's away: the others, and multicast DNS, name peers meanwhile.
          if (!(error instanceof SitecastError) && !signal.aborted) throw error;
        }
      }),
    );
  }
}
