import { otherSlot, type SlotName } from '../ports.ts';
import {
  type AgentState,
  type BarredRelease,
  type Reason,
  type RolloutRecord,
  type SlotRecord,
  type Update,
} from '../state/agent-state.ts';

// How each step of an update changes the agent's state (pure functions). A step is written as one change, so after a power cut it is either
// done or not done.

type Transition = (state: AgentState) => Partial<AgentState>;

/** How an attempt ended. */
export type Outcome = NonNullable<RolloutRecord['ended']>['outcome'];

/** From now on the slot holds nothing that can be booted. */
export const toDownloading =
  (update: Update): Transition =>
  ({ slots }) => ({ slots: { ...slots, [update.target]: { state: 'bad' } }, update });

/** The slot was read back whole, and is right. */
export const toVerified =
  (update: Update, record: SlotRecord): Transition =>
  ({ slots }) => ({ slots: { ...slots, [update.target]: record }, update });

/** The boot loader is about to be told. `cameFrom` is noted only for an install: a roll-back leads there. */
export const toActivating =
  (update: Update, { booted, at }: { booted: SlotName; at: string }): Transition =>
  ({ slots, rollouts }) => {
    const cameFrom = slots[booted].release;
    const isNoted = update.kind === 'install' && cameFrom !== undefined;
    return {
      update,
      lastActivationAt: at,
      rollouts: isNoted
        ? rollouts.map(entry => (entry.id === update.rollout.id ? { ...entry, cameFrom } : entry))
        : rollouts,
    };
  };

/** The attempt failed before the boot loader was told. */
export const toFailed =
  (
    attempt: Pick<Update, 'rollout' | 'release'>,
    { reason, at }: { reason: Reason; at: string },
  ): Transition =>
  ({ rollouts }) => ({
    update: null,
    rollouts: withEnd(rollouts, attempt.rollout, 'failed'),
    lastFailure: { at, reason, release: attempt.release },
  });

/** The slot has passed its trial. If its release was barred, it no longer is. */
export const toConfirmed =
  (update: Update, outcome: Outcome): Transition =>
  ({ slots, rollouts, barred }) => ({
    update: null,
    slots: {
      ...slots,
      [update.target]: { ...slots[update.target], isConfirmed: true, rollout: update.rollout },
    },
    rollouts: withEnd(rollouts, update.rollout, outcome),
    barred: barred.filter(({ counter }) => counter !== update.release.counter),
    lastFailure: undefined,
    booted: update.target,
  });

/** The machine never booted the slot. */
export const toNeverBooted =
  (update: Update, { reason, at }: { reason: Reason; at: string }): Transition =>
  ({ slots, rollouts }) => ({
    update: null,
    slots: withBad(slots, update.target),
    rollouts: withEnd(rollouts, update.rollout, 'failed'),
    lastFailure: { at, reason, release: update.release },
  });

/** The slot was tried and given up, and the other one runs again. */
export const toFallenBack =
  (update: Update, { reason, at }: { reason: Reason; at: string }): Transition =>
  ({ slots, rollouts, barred }) => ({
    update: null,
    slots: withBad(slots, update.target),
    rollouts: withEnd(rollouts, update.rollout, update.kind === 'rollBack' ? 'rolledBack' : 'failed'),
    barred: withBarred(barred, {
      counter: update.release.counter,
      version: update.release.version,
      attempt: update.rollout.attempt,
      reason,
      at,
    }),
    lastFailure: { at, reason, release: update.release },
    booted: otherSlot(update.target),
  });

/** The boot loader has left a slot after its trial: its rollout has failed here, except for an ordered roll-back. */
export const toLeft =
  (left: SlotName, { reason, at }: { reason: Reason; at: string }): Transition =>
  ({ slots, rollouts, barred }) => {
    const { release, rollout } = slots[left];
    const unproved = (entry: RolloutRecord): RolloutRecord =>
      entry.ended?.outcome === 'completed'
        ? { ...entry, ended: { ...entry.ended, outcome: 'failed' } }
        : entry;
    const isBarred = release !== undefined && release.counter >= 1;
    return {
      update: null,
      returns: undefined,
      slots: withBad(slots, left),
      rollouts: rollouts.map(entry => (entry.id === rollout?.id ? unproved(entry) : entry)),
      barred: isBarred
        ? withBarred(barred, {
            counter: release.counter,
            version: release.version,
            attempt: rollout?.attempt ?? 1,
            reason,
            at,
          })
        : barred,
      lastFailure: { at, reason, ...(release && { release }) },
      booted: otherSlot(left),
    };
  };

/** A slot runs that isn't known to be good, and the other one is none to go back to. */
export const toStaying =
  (booted: SlotName, { reason, at }: { reason: Reason; at: string }): Transition =>
  ({ slots }) => {
    const { release } = slots[otherSlot(booted)];
    return {
      update: null,
      returns: undefined,
      slots: withBad(slots, otherSlot(booted)),
      lastFailure: { at, reason, ...(release && { release }) },
      booted,
    };
  };

function withBad(slots: AgentState['slots'], name: SlotName): AgentState['slots'] {
  return { ...slots, [name]: { ...slots[name], state: 'bad' } };
}

function withEnd(
  rollouts: readonly RolloutRecord[],
  { id, attempt }: Update['rollout'],
  outcome: Outcome,
): RolloutRecord[] {
  return rollouts.map(entry => (entry.id === id ? { ...entry, ended: { attempt, outcome } } : entry));
}

function withBarred(barred: readonly BarredRelease[], entry: BarredRelease): BarredRelease[] {
  return [...barred.filter(({ counter }) => counter !== entry.counter), entry];
}
