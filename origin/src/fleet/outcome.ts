import { DEVICE_STATES, type Report } from '@sitecast/shared/fleet';
import { z } from 'zod';

const reasonSchema = z.object({ code: z.string(), message: z.string() });

const transferSchema = z.object({
  plannedBytes: z.int().exactOptional(),
  /** It takes at most that. */
  isPlanAtMost: z.literal(true).exactOptional(),
  spentBytes: z.int(),
});

/** How far a device has got with one rollout, by its newest report about it. */
export const outcomeSchema = z.object({
  attempt: z.int(),
  state: z.enum(DEVICE_STATES),
  /** The device's clock; then the origin's. */
  at: z.string(),
  receivedAt: z.string(),
  /** When its first report about this attempt came. */
  startedAt: z.string(),
  reason: reasonSchema.exactOptional(),
  /** The device was `completed` once in this attempt: only a failure or a way back undoes that. */
  hasCompleted: z.literal(true).exactOptional(),
  /** What the update was to cost the device over the network, and has cost; bytes. */
  transfer: transferSchema.exactOptional(),
  /** What the device failed with in this attempt. Later reports don't take it back. */
  failure: reasonSchema.exactOptional(),
});
export type Outcome = z.infer<typeof outcomeSchema>;

/** Whether the device has completed this attempt once, whatever it reports since. */
export const hasCompletedOnce = ({ state, hasCompleted }: Outcome): boolean =>
  state === 'completed' || hasCompleted === true;

/** A device's state in a rollout after one more report; undefined where it's about an earlier attempt. */
export function outcomeAfter(
  before: Outcome | undefined,
  report: Report,
  nowIso: string,
): Outcome | undefined {
  const { rollout, state, at, reason } = report;
  if (!rollout || (before && before.attempt > rollout.attempt)) return undefined;
  const current = before?.attempt === rollout.attempt ? before : undefined;
  // After a failure the device reports that it won't try this attempt again: the failure stays its outcome.
  if (current && state === 'blocked' && isFailure(current.state)) return undefined;
  const known: Partial<Outcome> = current ?? {};
  const { startedAt = nowIso, failure = failureIn(report) } = known;
  return {
    attempt: rollout.attempt,
    state,
    at,
    receivedAt: nowIso,
    startedAt,
    ...(reason && { reason: textOf(reason) }),
    ...stillCompleted(current, state),
    ...transferAfter(current, report),
    ...(failure && { failure }),
  };
}

function stillCompleted(before: Outcome | undefined, state: Outcome['state']): Pick<Outcome, 'hasCompleted'> {
  const had = before !== undefined && hasCompletedOnce(before) && !isFailure(state);
  return had || state === 'completed' ? { hasCompleted: true } : {};
}

/** A report that would have been too large comes without it, and one about nothing that was fetched says nothing of it. */
function transferAfter(before: Outcome | undefined, { transfer }: Report): Pick<Outcome, 'transfer'> {
  if (!transfer) return before?.transfer ? { transfer: before.transfer } : {};
  const { plannedBytes, isPlanAtMost, spentBytes } = transfer;
  return {
    transfer: {
      ...(plannedBytes !== undefined && { plannedBytes }),
      ...(isPlanAtMost === true && { isPlanAtMost }),
      spentBytes,
    },
  };
}

const textOf = ({ code, message }: NonNullable<Report['reason']>) => ({ code, message });

/** Reasons that say nothing about the release: the power was cut, or the device goes back because it was ordered to. */
const NO_FAILURES: ReadonlySet<string> = new Set(['powerLoss', 'ordered']);

/** A failure of health, boot or install, as the rollouts' controller counts them. */
function failureIn({ state, reason }: Report): Outcome['failure'] {
  if (!isFailure(state) || (reason && NO_FAILURES.has(reason.code))) return undefined;
  return textOf(reason ?? { code: state, message: '' });
}

function isFailure(state: Outcome['state']): boolean {
  return state === 'failed' || state === 'rolledBack';
}
