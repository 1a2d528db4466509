import { SitecastError } from '@sitecast/shared/errors';
import { FairQueue } from '@sitecast/shared/bounded';

/** Chunks that wait for their turn; where there are more, whoever has asked for the most gives one up. */
const MAX_QUEUED_FETCHES = 2048;

interface Pending {
  frame: Promise<Buffer>;
  resolve: (frame: Buffer) => void;
  reject: (error: unknown) => void;
  isBegun: boolean;
  /** In whose turns it waits. */
  owners: Set<string>;
}

/**
 * Chunks that are to be fetched, each once, however many ask. It waits in the turn of each who asks and comes in the first of them: so
 * nobody's chunk lies in another's long queue.
 */
export class FetchQueue {
  readonly #queue: FairQueue;
  readonly #pending = new Map<string, Pending>();

  constructor(atOnce: number) {
    this.#queue = new FairQueue({ maxRunning: atOnce, maxWaiting: MAX_QUEUED_FETCHES });
  }

  get waiting(): number {
    return this.#queue.waiting;
  }

  /** Chunks that weren't fetched because others had asked for less, so far. */
  get givenUp(): number {
    return this.#queue.givenUp;
  }

  /**
   * @param owner who asks: an address
   * @param fetch calls back as soon as the frame is there; the next one begins when its promise has settled
   * @throws what `fetch` throws; SITECAST_BUSY
   */
  fetch(
    owner: string,
    hex: string,
    fetch: (onFetched: (frame: Buffer) => void) => Promise<void>,
  ): Promise<Buffer> {
    const pending = this.#pending.get(hex) ?? this.#begin(hex);
    if (!pending.isBegun && !pending.owners.has(owner)) {
      pending.owners.add(owner);
      this.#queue.add(
        owner,
        async () => {
          if (pending.isBegun) return;
          pending.isBegun = true;
          await fetch(pending.resolve).catch(pending.reject);
        },
        () => {
          pending.owners.delete(owner);
          if (!pending.isBegun && pending.owners.size === 0) pending.reject(busy());
        },
      );
    }
    return pending.frame;
  }

  #begin(hex: string): Pending {
    let resolve: Pending['resolve'] = () => {};
    let reject: Pending['reject'] = () => {};
    const frame = new Promise<Buffer>((...both) => ([resolve, reject] = both));
    const pending: Pending = { frame, resolve, reject, isBegun: false, owners: new Set() };
    this.#pending.set(hex, pending);
    const forget = (): void => void this.#pending.delete(hex);
    frame.then(forget, forget);
    return pending;
  }
}

function busy(): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_BUSY', 'too many chunks are being fetched already');
}
