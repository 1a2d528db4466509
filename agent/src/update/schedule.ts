import { formatBytes } from '@sitecast/shared/text';
import { isOpen, localTimeOf, parseWindow, type Rollout, type RolloutsFile } from '@sitecast/shared/fleet';
import type { Clock } from '@sitecast/shared/trust';
import type { AgentClock } from '../ports.ts';
import type { Spending } from '../state/spending.ts';
import type { StateFile } from '../state/state-file.ts';
import type { Trust } from '../upstream/trust.ts';
import type { Order } from './choose.ts';
import { type CycleEnd, postponed } from './result.ts';

/** The age up to which a timestamp counts as new, and confirms the local clock, in ms. The origin renews it hourly. */
const VOUCHING_MS = 2 * 3_600_000;
const MINUTE_MS = 60_000;
const MIB = 1024 * 1024;
const DEFAULT_OFFLINE_FOR_MS = 24 * 3_600_000;

/** All facts that decide whether a verified slot may be activated now. */
export interface ActivationFacts {
  nowMs: number;
  clock: Clock;
  /** Whether the system says that its clock is synchronized; undefined where it says nothing. */
  isSynchronised: boolean | undefined;
  /** Whether a gateway has just confirmed the metadata, or sent newer ones. */
  isRefreshed: boolean;
  /** True for an order to roll back, which waits for no window. */
  isUrgent: boolean;
  rollout: Pick<Rollout, 'notBefore' | 'window' | 'offlineForMs'>;
  /** The device's own minimum time between two activations. */
  minIntervalMs: number;
  lastActivationMs: number | undefined;
}

/** What an activation waits for. */
type WaitsFor = 'freshness' | 'time' | 'notBefore' | 'window' | 'interval';

export interface Wait {
  for: WaitsFor;
  message: string;
  /** When to look again, at the latest. */
  retryMs: number;
}

/**
 * What an activation waits for. Pure. First the metadata must be fresh; then the rollout's terms count, then this device's own interval.
 * @returns undefined where the slot may be activated
 */
export function activationWait(facts: ActivationFacts): Wait | undefined {
  return freshnessWait(facts) ?? (facts.isUrgent ? undefined : (scheduleWait(facts) ?? intervalWait(facts)));
}

function freshnessWait({ isRefreshed, nowMs, clock, rollout }: ActivationFacts): Wait | undefined {
  // A clock that is behind the metadata's `issued` can't tell their age.
  const ageMs = clock.issuedMs === undefined || clock.state !== 'ok' ? undefined : nowMs - clock.issuedMs;
  // A gateway without WAN answers too, but with an old timestamp. So the timestamp's age counts as well.
  if (isRefreshed && (ageMs === undefined || ageMs <= VOUCHING_MS)) return undefined;
  if (ageMs !== undefined && ageMs <= rollout.offlineForMs) return undefined;
  return {
    for: 'freshness',
    message:
      'nobody confirms that the rollout still stands: no gateway has new metadata of the origin; does it reach the origin?',
    retryMs: MINUTE_MS,
  };
}

type ScheduleFacts = Pick<ActivationFacts, 'nowMs' | 'clock' | 'isSynchronised'> & {
  rollout: Pick<Rollout, 'notBefore' | 'window' | 'download'>;
};

/** What a download waits for. @returns undefined where it may begin. A download that is running when the window closes goes on */
export function downloadWait(facts: ScheduleFacts): Wait | undefined {
  return facts.rollout.download === 'window' ? scheduleWait(facts) : undefined;
}

function scheduleWait(facts: ScheduleFacts): Wait | undefined {
  const { rollout, nowMs } = facts;
  if (rollout.notBefore === undefined && rollout.window === undefined) return undefined;
  if (!isTimeTrusted(facts))
    return {
      for: 'time',
      message:
        'the clock is not known to be right: synchronise it, or start the agent with --time-sync yes if it is',
      retryMs: MINUTE_MS,
    };
  if (rollout.notBefore !== undefined && nowMs < Date.parse(rollout.notBefore))
    return {
      for: 'notBefore',
      message: `not before ${rollout.notBefore}`,
      retryMs: Math.min(Date.parse(rollout.notBefore) - nowMs, MINUTE_MS),
    };
  if (rollout.window !== undefined && !isOpen(parseWindow(rollout.window), localTimeOf(nowMs)))
    return { for: 'window', message: `for the window ${rollout.window}`, retryMs: MINUTE_MS };
  return undefined;
}

/** Whether the time is confirmed: by the system, or by a timestamp of the last hours. */
export function isTimeTrusted({
  isSynchronised,
  clock,
  nowMs,
}: Pick<ActivationFacts, 'nowMs' | 'clock' | 'isSynchronised'>): boolean {
  if (clock.state === 'behind' || clock.state === 'suspect') return false;
  if (isSynchronised !== undefined) return isSynchronised;
  return clock.issuedMs !== undefined && Math.abs(nowMs - clock.issuedMs) <= VOUCHING_MS;
}

function intervalWait({ nowMs, minIntervalMs, lastActivationMs }: ActivationFacts): Wait | undefined {
  if (lastActivationMs === undefined) return undefined;
  const sinceMs = nowMs - lastActivationMs;
  // If the clock was set back, the interval is ignored: the device could wait for years.
  if (sinceMs < 0 || sinceMs >= minIntervalMs) return undefined;
  return {
    for: 'interval',
    message: `for ${Math.ceil((minIntervalMs - sinceMs) / 1000)} s: --min-activation-interval keeps the activations of this device apart`,
    retryMs: minIntervalMs - sinceMs,
  };
}

interface ScheduleDependencies {
  clock: AgentClock;
  trust: Pick<Trust, 'clock'>;
  stateFile: Pick<StateFile, 'current'>;
  minActivationIntervalMs: number;
  /** An update that would fetch more waits for approval; undefined: no bound. */
  maxFetchBytes: number | undefined;
  /** The bound on what one release may cost; undefined: no bound. */
  maxBytes: number | undefined;
}

/** What an update still fetches, in bytes. Chunks that peers will give count as if gateways gave them. */
export interface Costs {
  patches: number;
  /** Signed files that are needed for the patches. Files that were fetched for the plan itself count as spent. */
  files: number;
  /** Compressed chunks: according to the recipe, estimated from some lengths, or their plain length. */
  frames: number;
  framesBy: 'recipe' | 'sample' | 'plain';
  /** The least that the chunks can take. */
  leastFrames: number;
  /** How much more than planned everything may take. */
  marginBytes: number;
}

/** When an order may be followed, by the rollout's terms and the device's own. */
export class Schedule {
  readonly #deps: ScheduleDependencies;

  constructor(deps: ScheduleDependencies) {
    this.#deps = deps;
  }

  /** @throws CycleEnd (`waiting`) outside of the rollout's window, if the rollout wants downloads in it */
  async checkDownload(rollouts: RolloutsFile, order: Order): Promise<void> {
    const rollout = rollouts.rollouts.find(({ id }) => id === order.rollout.id);
    if (!rollout || order.kind === 'rollBack') return;
    const { clock, trust } = this.#deps;
    const isSynchronised = await clock.isSynchronised();
    waitFor(downloadWait({ nowMs: clock.now(), clock: trust.clock(), isSynchronised, rollout }));
  }

  /**
   * @param fetchBytes plain bytes of fetched chunks, plus patches
   * @throws CycleEnd (`waiting`) where the download surely takes more than the owner's approval or bound allows. A download that may fit
   * begins, and ends at the bound.
   */
  checkSize(
    { release }: Order,
    { patches, files, frames, leastFrames, marginBytes }: Costs,
    { fetchBytes, spending }: { fetchBytes: number; spending: Pick<Spending, 'spentBytes' | 'leftBytes'> },
  ): void {
    const { maxFetchBytes, maxBytes } = this.#deps;
    if (maxFetchBytes !== undefined && fetchBytes > maxFetchBytes)
      throw tooLarge(
        `${release.version} fetches ${formatBytes(fetchBytes)}, uncompressed, and --max-fetch-bytes allows ${formatBytes(maxFetchBytes)}`,
        allowing('--max-fetch-bytes', fetchBytes),
      );
    const neededBytes = patches + files + leastFrames;
    if (maxBytes === undefined || neededBytes === 0 || neededBytes <= spending.leftBytes) return;
    const { spentBytes } = spending;
    const plannedBytes = patches + files + frames;
    const spent = spentBytes === 0 ? '' : `, after ${formatBytes(spentBytes)} that they have sent for it`;
    throw tooLarge(
      `${release.version} takes about ${formatBytes(plannedBytes)} from gateways${spent}; --max-bytes allows ${formatBytes(maxBytes)} for a release`,
      allowing('--max-bytes', maxBytes - spending.leftBytes + plannedBytes + marginBytes),
    );
  }

  /**
   * Makes a device that pays for bytes wait for the deltas of its order, as long as the order says that they are being made.
   * @throws CycleEnd (`waiting`)
   */
  checkDeltas(rollouts: RolloutsFile, order: Order): void {
    const { maxBytes, clock, trust } = this.#deps;
    const { deltasBy } = rollouts.rollouts.find(({ id }) => id === order.rollout.id) ?? {};
    if (maxBytes === undefined || deltasBy === undefined) return;
    const { state } = trust.clock();
    const leftMs = Date.parse(deltasBy) - clock.now();
    // With a wrong clock, the device could wait for years.
    if (state === 'behind' || state === 'suspect' || !(leftMs > 0)) return;
    const message = `the origin still makes deltas to ${order.release.version}, which save bytes: waits for them until ${deltasBy} at the latest; started with --deltas off it would take chunks, as far as --max-bytes allows them`;
    const reason = { code: 'SITECAST_WAITING_DELTAS', message };
    throw postponed('deltas', reason, Math.min(leftMs, MINUTE_MS));
  }

  /** @throws CycleEnd (`waiting`) while the verified slot may not be activated */
  async checkActivation(rollouts: RolloutsFile, order: Order, isRefreshed: boolean): Promise<void> {
    const { clock, trust, stateFile, minActivationIntervalMs } = this.#deps;
    const rollout: Pick<Rollout, 'notBefore' | 'window' | 'offlineForMs'> = rollouts.rollouts.find(
      ({ id }) => id === order.rollout.id,
    ) ?? { offlineForMs: DEFAULT_OFFLINE_FOR_MS };
    const lastActivationMs = Date.parse(stateFile.current.lastActivationAt ?? '');
    waitFor(
      activationWait({
        nowMs: clock.now(),
        clock: trust.clock(),
        isSynchronised: await clock.isSynchronised(),
        isRefreshed,
        isUrgent: order.kind === 'rollBack',
        rollout,
        minIntervalMs: minActivationIntervalMs,
        lastActivationMs: Number.isNaN(lastActivationMs) ? undefined : lastActivationMs,
      }),
    );
  }
}

/** @param remedy what the owner does to allow it */
function tooLarge(what: string, remedy: string): CycleEnd {
  return postponed('approval', { code: 'SITECAST_PLAN_TOO_LARGE', message: `${what}: ${remedy}` });
}

/** The setting with which the owner allows this many bytes. */
function allowing(option: string, bytes: number): string {
  const [unit, name] = bytes < MIB ? [1024, 'KiB'] : [MIB, 'MiB'];
  return `to allow it, start the agent with ${option} ${Math.ceil(bytes / unit)}${name} or more`;
}

/** @throws CycleEnd (`waiting`) where there is something to wait for */
function waitFor(wait: Wait | undefined): void {
  if (!wait) return;
  const code = `SITECAST_WAITING_${wait.for.toUpperCase()}`;
  throw postponed(wait.for, { code, message: wait.message }, wait.retryMs);
}
