import type { TrustedNow } from '@sitecast/shared/swarm';
import type { Log } from '../log.ts';
import type { MirrorSet } from '../mirror/mirror-set.ts';

/** What a gateway has to tell another. */
interface Tidings {
  rootVersion: number;
  timestamp: Uint8Array;
  /** All metadata of the set by its versioned name; what's too large is left out. */
  files: ReadonlyMap<string, Uint8Array>;
}

/** The fleet's network, as far as a gateway needs it. Without it changes come by long poll alone. */
export interface News {
  /** Multiaddresses under which others reach this gateway there. */
  addresses(): string[];
  /** How many are connected there. */
  readonly connections: number;
  /**
   * @param listener `onNews` is called when others tell of something newer that is rightly signed, or of a newer root
   */
  listen(listener: { trusted: () => TrustedNow; onNews: () => void }): void;
  tell(tidings: Tidings): Promise<void>;
  close(): Promise<void>;
}

/** Tells the others of each set that is served from now on. What they know already goes no further than them. */
export function tellOfSets(news: News, log: Log): (set: MirrorSet) => void {
  return ({ served, roles }) => {
    const timestamp = served.get('timestamp.json');
    const root = roles.find(({ role }) => role === 'root');
    if (!timestamp || !root) return;
    // The same for everybody who has this set, so that one who announces it too says nothing new.
    const files = new Map([...served].filter(([name]) => name !== 'timestamp.json'));
    news.tell({ rootVersion: root.version, timestamp, files }).catch((error: unknown) => {
      log.warn({ err: error }, 'the other gateways could not be told of a new set');
    });
  };
}
