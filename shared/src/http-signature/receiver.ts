import { lruCache } from '../bounded/lru-cache.ts';
import { SitecastError } from '../errors.ts';
import { MAX_CLOCK_SKEW_MS } from './limits.ts';

/** The header that names whom a request is meant for. The signature covers it. */
export const RECEIVER_HEADER = 'sitecast-receiver';
/** The name of the origin as a receiver: a key belongs to one repository, so there is one origin that it can mean. A gateway's name is its id. */
export const ORIGIN_RECEIVER = 'origin';
/** Senders of requests with a receiver that are remembered, about 100 bytes each. */
const MAX_SENDERS = 200_000;

/** A server as the receiver of signed requests: it takes those that are meant for it. */
export class Receiver {
  readonly name: string;
  /** By sender: when its newest request with a receiver was signed, seconds. No older request is valid for longer than this is remembered. */
  readonly #boundS = lruCache<string, number>({ max: MAX_SENDERS, ttl: 2 * MAX_CLOCK_SKEW_MS });

  /** @param name the gateway's id, or `ORIGIN_RECEIVER` */
  constructor(name: string) {
    this.name = name;
  }

  /**
   * @param meant the header; undefined: none
   * @throws SITECAST_REQUEST_MISDIRECTED (unauthenticated); `data.receiver` is this server's name
   */
  demandMeant(meant: string | undefined): void {
    if (meant === undefined || meant === this.name) return;
    throw misdirected('the request is meant for another server', this.name);
  }

  /**
   * Senders of versions up to 0.1 name no receiver. Their requests are taken for one more release, but none that was signed before one of the same sender
   * that named one: it was meant for somebody else, and kept. A device that falls back to 0.1 goes on.
   * @param signedS seconds since 1970, verified
   * @throws SITECAST_REQUEST_MISDIRECTED (unauthenticated)
   */
  demandNewer(sender: string, meant: string | undefined, signedS: number): void {
    const boundS = this.#boundS.get(sender) ?? Number.NEGATIVE_INFINITY;
    if (meant !== undefined) this.#boundS.set(sender, Math.max(boundS, signedS));
    else if (signedS < boundS)
      throw misdirected('the request names no receiver, and its sender has named one since', this.name);
  }
}

function misdirected(message: string, receiver: string): SitecastError {
  return new SitecastError('unauthenticated', 'SITECAST_REQUEST_MISDIRECTED', message, {
    data: { receiver },
  });
}
