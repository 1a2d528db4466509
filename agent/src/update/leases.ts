import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { type Gateways, noGateway } from '../upstream/gateways.ts';
import { leaseHolderReader, leaseReader, problemIn, problemReader } from '../upstream/answers.ts';
import type { AgentClock, Gateway, Log } from '../ports.ts';
import type { RolloutRecord } from '../state/agent-state.ts';
import type { StateFile } from '../state/state-file.ts';
import { type CycleEnd, postponed } from './result.ts';

/** Milliseconds: a third of what a gateway grants. */
const RENEWAL_MS = 5 * 60_000;
const DEFAULT_RETRY_MS = 10_000;
/** The least time between two requests to a gateway, whatever it answers. */
const MIN_RETRY_MS = 2000;
const MAX_RETRY_MS = 10 * 60_000;

/** In ms. A gateway only has to write a short record before it answers. */
const ANSWER_TIMEOUT_MS = 10_000;
/**
 * For this long, the "not now" of a single gateway is final: twice the 2 hours for which an honest gateway lets a device hold a lease
 * before that device must wait. After that, the next gateway is asked as well.
 */
const PATIENCE_MS = 4 * 3_600_000;
const REFUSED = 'SITECAST_LEASE_REFUSED';

const MAX_TOLD_HOLDERS = 4;

interface Denied {
  /** How long to wait before the next request, in ms. */
  retryMs: number;
  /** The devices that are down according to the gateway; empty where it doesn't say. */
  heldBy: string;
}

type LeaseAction = 'take' | 'renew' | 'return';

interface LeaseDependencies {
  gateways: Pick<Gateways, 'all' | 'inOrder' | 'each' | 'post'>;
  /** This device's id. */
  id: string;
  clock: AgentClock;
  log: Log;
  stop: AbortSignal;
  /** Called when a gateway has answered no, or "not now". Durable when it resolves. */
  onRefused: (rollout: string) => Promise<void>;
  /** Milliseconds on a clock that never goes back. */
  monotonicMs?: () => number;
}

/**
 * Requests leases from gateways: only so many devices of a site may be down at a time. Each gateway counts by itself, and any may be
 * hostile. So only a lease, or "not now" within the bound above, is a verdict. After any other answer, the next gateway is asked.
 */
export class Leases {
  readonly #deps: LeaseDependencies;
  readonly #monotonicMs: () => number;
  /** Gateways that hold a lease of this device; empty after a start, and so after a reboot. */
  readonly #granters = new Set<Gateway>();
  /** Since when each gateway has answered "not now" for this rollout, on the monotonic clock. */
  #denials = { rollout: '', sinceMs: new Map<Gateway, number>() };

  constructor(deps: LeaseDependencies) {
    this.#deps = deps;
    this.#monotonicMs = deps.monotonicMs ?? (() => performance.now());
  }

  /** @throws CycleEnd (`waiting`) while the site has too many devices down, or no gateway counts them; the signal's reason */
  async take(rollout: string, signal: AbortSignal): Promise<void> {
    if (this.#denials.rollout !== rollout) this.#denials = { rollout, sinceMs: new Map() };
    const { sinceMs } = this.#denials;
    let denied: Denied | undefined;
    try {
      await this.#deps.gateways.each(async gateway => {
        const verdict = await this.#ask(gateway, 'take', { rollout, signal });
        if (verdict === 'granted') {
          sinceMs.clear();
          return;
        }
        denied ??= verdict;
        const nowMs = this.#monotonicMs();
        const isBelieved = nowMs - (sinceMs.get(gateway) ?? nowMs) < PATIENCE_MS;
        if (!sinceMs.has(gateway)) sinceMs.set(gateway, nowMs);
        if (isBelieved) throw notNow(verdict);
        throw noGateway(gateway.url, 'it has said for hours that others are being updated');
      }, signal);
    } catch (error) {
      if (!(error instanceof SitecastError) && !isSystemError(error)) throw error;
      if (denied) throw notNow(denied);
      throw noVerdict(error);
    }
  }

  /** Gives the lease back. Never fails: a lease that isn't given back expires. */
  async giveBack(rollout: string): Promise<void> {
    const { gateways, stop } = this.#deps;
    const holders = this.#granters.size > 0 ? [...this.#granters] : gateways.all;
    this.#granters.clear();
    await Promise.all(
      holders.map(async gateway => {
        try {
          await this.#ask(gateway, 'return', { rollout, signal: stop });
        } catch (error) {
          if (!(error instanceof SitecastError) && !isSystemError(error) && !stop.aborted) throw error;
        }
      }),
    );
  }

  /**
   * Renews the lease until the returned function is called: health checks, a wait for confirmation, or reading a slot back may take longer
   * than a lease.
   */
  keep(rollout: string): () => void {
    const { clock, log, stop } = this.#deps;
    const done = new AbortController();
    const signal = AbortSignal.any([done.signal, stop]);
    const renew = async (): Promise<void> => {
      for (;;) {
        await clock.sleep(RENEWAL_MS, signal);
        if (signal.aborted) return;
        // A failure has no consequence: this device is down already.
        await this.#renew(rollout, signal).catch((error: unknown) => {
          if (!signal.aborted) log('warn', "the lease isn't renewed; the update goes on", { err: error });
        });
      }
    };
    void renew();
    return () => done.abort();
  }

  /** Renews it at every gateway that may count this device, which is down whatever they answer. */
  async #renew(rollout: string, signal: AbortSignal): Promise<void> {
    const { gateways } = this.#deps;
    const order = [...new Set([...this.#granters, ...gateways.inOrder])];
    const renewed = async (gateway: Gateway): Promise<void> => {
      if ((await this.#ask(gateway, 'renew', { rollout, signal })) === 'granted') return;
      throw noGateway(gateway.url, "it doesn't renew the lease");
    };
    await gateways.each(renewed, signal, order);
  }

  /** @throws SITECAST_LEASE_REFUSED, SITECAST_GATEWAY_UNREACHABLE: no verdict from this gateway; the signal's reason */
  async #ask(
    gateway: Gateway,
    action: LeaseAction,
    { rollout, signal }: { rollout: string; signal: AbortSignal },
  ): Promise<'granted' | Denied> {
    const { gateways, id } = this.#deps;
    const request = { id, rollout, action };
    const { status, body } = await gateways.post(
      gateway,
      '/site/v1/leases',
      request,
      signal,
      ANSWER_TIMEOUT_MS,
    );
    if (knowsNoLeases(status, body)) return 'granted';
    const { granted, retryAfterMs, heldBy = [] } = leaseReader.parse(body);
    if (action === 'take' && isRefusal(status, granted)) await this.#deps.onRefused(rollout);
    if (status !== 200)
      throw new SitecastError(
        'forbidden',
        REFUSED,
        `${gateway.url}: ${problemIn(body) ?? `status ${status}`}`,
      );
    if (granted === true) {
      this.#granters.add(gateway);
      return 'granted';
    }
    if (granted === undefined || (retryAfterMs === undefined && action !== 'return'))
      throw noGateway(gateway.url, 'its answer about a lease is none');
    const isUsable = retryAfterMs !== undefined && retryAfterMs > 0;
    return {
      retryMs: isUsable ? Math.max(retryAfterMs, MIN_RETRY_MS) : DEFAULT_RETRY_MS,
      heldBy: holdersText(heldBy),
    };
  }
}

/** Notes in the rollout's record that a gateway has refused it. */
export function noteRefusals(
  stateFile: Pick<StateFile, 'current' | 'change'>,
): LeaseDependencies['onRefused'] {
  return async id => {
    const isNew = (entry: RolloutRecord): boolean => entry.id === id && entry.leaseRefused !== true;
    if (!stateFile.current.rollouts.some(isNew)) return;
    await stateFile.change(({ rollouts }) => ({
      rollouts: rollouts.map(entry => (isNew(entry) ? { ...entry, leaseRefused: true } : entry)),
    }));
  };
}

/** The verdict that this device may not go down now. It isn't a SitecastError, so no other gateway is asked. */
function notNow({ retryMs, heldBy }: Denied): CycleEnd {
  const who = heldBy === '' ? '' : `: ${heldBy}`;
  return postponed(
    'lease',
    { code: 'SITECAST_LEASE_DENIED', message: `other devices of this site are being updated${who}` },
    Math.min(retryMs * jitter(), MAX_RETRY_MS),
  );
}

/** No gateway counts the devices that are down, so going down isn't safe. */
function noVerdict(error: Error): CycleEnd {
  const isRefused = error instanceof SitecastError && error.code === REFUSED;
  const reason = isRefused
    ? { code: REFUSED, message: `no lease for this device: ${error.message}` }
    : { code: 'SITECAST_LEASE_UNREACHABLE', message: `nobody hands out leases: ${error.message}` };
  return postponed('lease', reason, DEFAULT_RETRY_MS * jitter());
}

const jitter = (): number => 0.5 + Math.random();

/** Whether the answer is a refusal. A gateway that doesn't know the rollout, or can't read the request, hasn't refused. */
function isRefusal(status: number, granted: boolean | undefined): boolean {
  return status === 403 || (status === 200 && granted === false);
}

/** Whether the server grants no leases at all, like an origin. A gateway does, even if it doesn't know the rollout yet. */
function knowsNoLeases(status: number, body: unknown): boolean {
  return status === 405 || (status === 404 && !isRolloutUnknown(body));
}

function isRolloutUnknown(body: unknown): boolean {
  return problemReader.parse(body).code === 'SITECAST_ROLLOUT_UNKNOWN';
}

/** Names the holders. The gateway's answer isn't signed, so only ids, names and times are used. */
function holdersText(heldBy: readonly unknown[]): string {
  return heldBy
    .slice(0, MAX_TOLD_HOLDERS)
    .map(holder => leaseHolderReader.parse(holder))
    .flatMap(({ id, name, until }) =>
      id === undefined || until === undefined ? [] : [`${name ?? id} until ${new Date(until).toISOString()}`],
    )
    .join(', ');
}
