import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { type Gateways, noGateway } from '../upstream/gateways.ts';
import { leaseHolderReader, leaseReader, problemIn } from '../upstream/answers.ts';
import type { AgentClock, Log } from '../ports.ts';
import { CycleEnd, postponed } from './result.ts';

/** Milliseconds: a third of what a gateway grants. */
const RENEWAL_MS = 5 * 60_000;
const DEFAULT_RETRY_MS = 10_000;
/** Whatever a gateway says, it isn't asked again sooner. */
const MIN_RETRY_MS = 2000;
const MAX_RETRY_MS = 10 * 60_000;

const MAX_TOLD_HOLDERS = 4;

interface Denied {
  /** Milliseconds until the next request. */
  retryMs: number;
  /** The devices that are down, as the gateway says; empty where it doesn't. */
  heldBy: string;
  /** Why this device gets no lease at all, as the gateway says. Other devices have nothing to do with it. */
  refusal?: string;
}

interface LeaseDependencies {
  gateways: Pick<Gateways, 'each' | 'post'>;
  /** This device's. */
  id: string;
  clock: AgentClock;
  log: Log;
  stop: AbortSignal;
}

/** Asks the gateways for leases: a site lets only so many of its devices be down at one time. */
export class Leases {
  readonly #deps: LeaseDependencies;

  constructor(deps: LeaseDependencies) {
    this.#deps = deps;
  }

  /** @throws CycleEnd (`waiting`) while the site has too many devices down, or no gateway counts them; the signal's reason */
  async take(rollout: string, signal: AbortSignal): Promise<void> {
    const granted = await this.#ask('take', rollout, signal);
    if (granted === true) return;
    const jitter = 0.5 + Math.random();
    if (granted.refusal !== undefined)
      throw postponed(
        'lease',
        { code: 'SITECAST_LEASE_REFUSED', message: `no lease for this device: ${granted.refusal}` },
        Math.min(granted.retryMs * jitter, MAX_RETRY_MS),
      );
    const who = granted.heldBy === '' ? '' : `: ${granted.heldBy}`;
    throw postponed(
      'lease',
      { code: 'SITECAST_LEASE_DENIED', message: `other devices of this site are being updated${who}` },
      Math.min(granted.retryMs * jitter, MAX_RETRY_MS),
    );
  }

  /** Never fails: a lease that isn't given back runs out by itself. */
  async giveBack(rollout: string): Promise<void> {
    const { stop } = this.#deps;
    try {
      await this.#ask('return', rollout, stop);
    } catch (error) {
      if (!(error instanceof SitecastError) && !(error instanceof CycleEnd) && !stop.aborted) throw error;
    }
  }

  /** Renews the lease: health checks, an operator's word or reading a slot back may outlast it. @returns ends that */
  keep(rollout: string): () => void {
    const { clock, log, stop } = this.#deps;
    const done = new AbortController();
    const signal = AbortSignal.any([done.signal, stop]);
    const renew = async (): Promise<void> => {
      for (;;) {
        await clock.sleep(RENEWAL_MS, signal);
        if (signal.aborted) return;
        // A failure changes nothing: this device is down already.
        await this.#ask('renew', rollout, signal).catch((error: unknown) => {
          if (!signal.aborted) log('warn', "the lease isn't renewed; the update goes on", { err: error });
        });
      }
    };
    void renew();
    return () => done.abort();
  }

  async #ask(
    action: 'take' | 'renew' | 'return',
    rollout: string,
    signal: AbortSignal,
  ): Promise<true | Denied> {
    const { gateways, id } = this.#deps;
    const request = { id, rollout, action };
    try {
      return await gateways.each(async gateway => {
        const { status, body } = await gateways.post(gateway, '/site/v1/leases', request, signal);
        // An origin hands out none.
        if (status === 404 || status === 405) return true;
        if (status !== 200) {
          const why = problemIn(body) ?? `status ${status}`;
          return { retryMs: DEFAULT_RETRY_MS, heldBy: '', refusal: `${gateway.url}: ${why}` };
        }
        const { granted, retryAfterMs = DEFAULT_RETRY_MS, heldBy = [] } = leaseReader.parse(body);
        if (granted === undefined) throw noGateway(gateway.url, 'its answer about a lease is none');
        if (granted) return true;
        return {
          retryMs: retryAfterMs > 0 ? Math.max(retryAfterMs, MIN_RETRY_MS) : DEFAULT_RETRY_MS,
          heldBy: holdersText(heldBy),
        };
      }, signal);
    } catch (error) {
      if (!(error instanceof SitecastError) && !isSystemError(error)) throw error;
      // No gateway counts the devices that are down, so it isn't safe to go down.
      const reason = {
        code: 'SITECAST_LEASE_UNREACHABLE',
        message: `nobody hands out leases: ${error.message}`,
      };
      throw postponed('lease', reason, DEFAULT_RETRY_MS);
    }
  }
}

/** Nothing vouches for these. Only ids, names and times are taken from them. */
function holdersText(heldBy: readonly unknown[]): string {
  return heldBy
    .slice(0, MAX_TOLD_HOLDERS)
    .map(holder => leaseHolderReader.parse(holder))
    .flatMap(({ id, name, until }) =>
      id === undefined || until === undefined ? [] : [`${name ?? id} until ${new Date(until).toISOString()}`],
    )
    .join(', ');
}
