import { isOpen, localTimeOf, parseWindow, type Rollout } from '@sitecast/shared/fleet';
import type { Clock } from '@sitecast/shared/trust';

/** How old a timestamp may be to count as new, and to vouch for the local clock, milliseconds: it's renewed hourly. */
const VOUCHING_MS = 2 * 3_600_000;
const MINUTE_MS = 60_000;

/** All that decides whether a verified slot may be activated now. */
export interface ActivationFacts {
  nowMs: number;
  clock: Clock;
  /** What the system says of its clock; undefined where it doesn't. */
  isSynchronised: boolean | undefined;
  /** Whether a gateway has just confirmed the metadata, or had newer ones. */
  isRefreshed: boolean;
  /** An order to go back waits for no window. */
  isUrgent: boolean;
  rollout: Pick<Rollout, 'notBefore' | 'window' | 'offlineForMs'>;
  /** The device's own least time between two activations. */
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

/** Undefined: it may (design section 2, time and freshness; section 4, windows). */
export function activationWait(facts: ActivationFacts): Wait | undefined {
  return freshnessWait(facts) ?? (facts.isUrgent ? undefined : (scheduleWait(facts) ?? intervalWait(facts)));
}

function freshnessWait({ isRefreshed, nowMs, clock, rollout }: ActivationFacts): Wait | undefined {
  // A clock that is behind `issued` can't tell how old the metadata is.
  const ageMs = clock.issuedMs === undefined || clock.state !== 'ok' ? undefined : nowMs - clock.issuedMs;
  // What a gateway without WAN confirms is as old as the timestamp says.
  if (isRefreshed && (ageMs === undefined || ageMs <= VOUCHING_MS)) return undefined;
  if (ageMs !== undefined && ageMs <= rollout.offlineForMs) return undefined;
  return {
    for: 'freshness',
    message: 'nobody confirms that the rollout still stands',
    retryMs: MINUTE_MS,
  };
}

type ScheduleFacts = Pick<ActivationFacts, 'nowMs' | 'clock' | 'isSynchronised'> & {
  rollout: Pick<Rollout, 'notBefore' | 'window' | 'download'>;
};

/** Undefined: a download may begin. One that runs when the window closes goes on. */
export function downloadWait(facts: ScheduleFacts): Wait | undefined {
  return facts.rollout.download === 'window' ? scheduleWait(facts) : undefined;
}

function scheduleWait(facts: ScheduleFacts): Wait | undefined {
  const { rollout, nowMs } = facts;
  if (rollout.notBefore === undefined && rollout.window === undefined) return undefined;
  if (!isTimeTrusted(facts))
    return { for: 'time', message: 'the clock is not known to be right', retryMs: MINUTE_MS };
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

function isTimeTrusted({ isSynchronised, clock, nowMs }: ScheduleFacts): boolean {
  if (clock.state === 'behind' || clock.state === 'suspect') return false;
  if (isSynchronised !== undefined) return isSynchronised;
  return clock.issuedMs !== undefined && Math.abs(nowMs - clock.issuedMs) <= VOUCHING_MS;
}

function intervalWait({ nowMs, minIntervalMs, lastActivationMs }: ActivationFacts): Wait | undefined {
  if (lastActivationMs === undefined) return undefined;
  const sinceMs = nowMs - lastActivationMs;
  // A clock that was set back would make it wait for years.
  if (sinceMs < 0 || sinceMs >= minIntervalMs) return undefined;
  return {
    for: 'interval',
    message: `for ${Math.ceil((minIntervalMs - sinceMs) / 1000)} s: activations of this device keep a distance`,
    retryMs: minIntervalMs - sinceMs,
  };
}
