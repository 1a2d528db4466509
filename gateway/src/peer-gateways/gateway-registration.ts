import { SitecastError } from '@sitecast/shared/errors';
import { type GatewayAddresses, type KnownGateways, knownGatewaysSchema } from '@sitecast/shared/api';
import { Backoff, sleep, withJitter } from '@sitecast/shared/async';
import type { Log } from '@sitecast/shared/log';
import { TokenBucket } from '@sitecast/shared/bounded';
import type { SiteUpstreams } from '../upstream/site-upstreams.ts';
import type { PeerBook } from './peer-book.ts';

/** How often this gateway tells the origin its addresses; on a metered link each message costs. The origin forgets them after 35 minutes. */
const TELL_EVERY_MS = 10 * 60_000;
const MIN_BACKOFF_MS = 2000;
const MAX_BACKOFF_MS = TELL_EVERY_MS;
/** How often it checks whether this gateway is enrolled. */
const READY_CHECK_MS = 500;
/**
 * Any machine may claim to be an unknown gateway, as often as it likes. So for unknown gateways the origin is asked at most this often: a
 * few times at once, then as often as it is asked anyway.
 */
export const STRANGERS = { burst: 6, perS: 1000 / TELL_EVERY_MS };

interface GatewayRegistrationDeps {
  upstreams: Pick<SiteUpstreams, 'ask'>;
  isEnrolled: () => boolean;
  /** This gateway's multiaddresses in the fleet's network; none where it is not in it. */
  fleetAddresses: () => string[];
  book: PeerBook;
  now: () => number;
  log: Log;
}

/** Tells the origin this gateway's addresses, and learns those of others. */
export class GatewayRegistration {
  readonly #deps: GatewayRegistrationDeps;
  readonly #backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  readonly #strangers: TokenBucket;
  #interrupt: AbortController | undefined;

  constructor(deps: GatewayRegistrationDeps) {
    this.#deps = deps;
    this.#strangers = new TokenBucket({ ...STRANGERS, now: deps.now });
  }

  /** Called when an unknown gateway has appeared: the origin may be asked early. */
  onUnknownGateway(): void {
    if (!this.#interrupt || this.#interrupt.signal.aborted || !this.#strangers.take()) return;
    this.#interrupt.abort(new Error('a stranger'));
  }

  /**
   * Runs until the signal fires.
   * @param urls of this gateway's HTTP side, for the other gateways of its site
   */
  async run(urls: readonly string[], signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const waitMs = await this.#step(urls);
      const interrupt = new AbortController();
      this.#interrupt = interrupt;
      await sleep(waitMs, AbortSignal.any([signal, interrupt.signal]));
      this.#interrupt = undefined;
    }
  }

  /** @returns how long to wait until the next step */
  async #step(urls: readonly string[]): Promise<number> {
    const { isEnrolled, fleetAddresses, upstreams, book, log } = this.#deps;
    if (!isEnrolled()) return READY_CHECK_MS;
    const own: GatewayAddresses = { fleet: fleetAddresses(), urls: [...urls] };
    try {
      const { status, json } = await upstreams.ask('/site/v1/gateways', own);
      const parsed = knownGatewaysSchema.safeParse(json);
      if (status !== 200 || !parsed.success) {
        log.info({ status }, 'the origin names no other gateways');
        return this.#backoff.next();
      }
      await book.learn(entriesOf(parsed.data));
      this.#backoff.reset();
      return withJitter(TELL_EVERY_MS);
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      log.debug({ code: error.code }, 'the origin could not be asked for other gateways');
      return this.#backoff.next();
    }
  }
}

function entriesOf({ origin, gateways }: KnownGateways) {
  const [first] = origin;
  const id = first === undefined ? undefined : first.slice(first.lastIndexOf('/') + 1);
  // The origin comes last, so that it is forgotten last.
  return id === undefined ? gateways : [...gateways, { id, fleet: origin }];
}
