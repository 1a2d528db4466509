import type { Report } from '@sitecast/shared/fleet';
import { type BootState, otherSlot, type SlotName } from '../ports.ts';
import {
  ROLLBACK_ORDERED,
  type BarredRelease,
  type AgentState,
  newAgentState,
  type RolloutRecord,
  type SlotRecord,
  type Update,
} from './agent-state.ts';

/** Facts from which a lost state is rebuilt. */
export interface Evidence {
  boot: Pick<BootState, 'booted' | 'bootId'>;
  /** This device's own newest reports, oldest first, with verified signatures. */
  reports: readonly Report[];
  /** An earlier state. It is used for values that only ever grow, and for a slot that was hashed. */
  kept: AgentState | undefined;
  /** The record of the slot that doesn't run, as found. */
  other: SlotRecord;
}

/** Reasons for giving a booted release up. It stays barred. */
const PROOF_FAILURES: ReadonlySet<string> = new Set([
  'healthFailed',
  'bootCountExhausted',
  'confirmTimedOut',
]);

const ACTIVATION_STATES: ReadonlySet<string> = new Set(['installing', 'rebooting', 'confirming']);

/**
 * A state to continue with. Pure. Nothing counts as good without evidence: a slot that doesn't run is bad unless it was hashed; a slot that
 * may be on trial is tried, once more if needed; a release that failed here stays barred.
 */
export function rebuiltState({ boot, reports, kept, other }: Evidence): AgentState {
  const { booted } = boot;
  const rollouts = rolloutsOf(reports, kept);
  const update = updateOf(reports.at(-1), boot, rollouts);
  const isOnTrial = update?.target === booted;
  const running = runningRecord(booted, reports, kept, isOnTrial ? update : undefined);
  const records = { [booted]: running, [otherSlot(booted)]: other };
  const { A = other, B = other } = records;
  const lastActivationAt = lastActivationOf(reports) ?? kept?.lastActivationAt;
  return {
    // Kept from the earlier state: the assignment, which is signed, and facts about the machine, not about its releases.
    ...(kept ?? newAgentState()),
    slots: { A, B },
    update,
    rollouts,
    barred: barredOf(reports, kept),
    booted: isOnTrial ? otherSlot(booted) : booted,
    ...(lastActivationAt === undefined ? {} : { lastActivationAt }),
  };
}

/** The update under way, if the newest report is about an activation that hasn't ended. */
function updateOf(
  newest: Report | undefined,
  { booted, bootId }: Evidence['boot'],
  rollouts: readonly RolloutRecord[],
): Update | null {
  if (!newest?.rollout || !newest.release || !newest.booted) return null;
  const { rollout, release, reason, at } = newest;
  const target = targetOf(newest.booted, release.counter);
  const cameFrom = rollouts.find(({ id }) => id === rollout.id)?.cameFrom;
  const kind = cameFrom?.counter === release.counter ? 'rollBack' : 'install';
  const update = { kind, rollout, release, target, startedAt: at } as const;
  if (newest.state === 'failed' && reason && PROOF_FAILURES.has(reason.code))
    return { ...update, phase: 'fallingBack', failure: reason };
  // Without a trial there is no update under way: an order that still stands is followed from its beginning.
  const isOnTrial = trialIn(newest) === booted;
  return isOnTrial ? { ...update, phase: 'confirming', bootId } : null;
}

/** The slot that was to be tried, or was on trial, at the time of the report; undefined: none. Pure. */
export function trialIn({ state, rollout, release, booted }: Report): SlotName | undefined {
  const isActivation = ACTIVATION_STATES.has(state) && rollout !== undefined;
  return isActivation && release && booted ? targetOf(booted, release.counter) : undefined;
}

/** The slot of the release: the reported running release is either this one, or the one that it was to replace. */
function targetOf({ slot, release }: NonNullable<Report['booted']>, counter: number): SlotName {
  return release?.counter === counter ? slot : otherSlot(slot);
}

function runningRecord(
  slot: SlotName,
  reports: readonly Report[],
  kept: AgentState | undefined,
  trial: Update | undefined,
): SlotRecord {
  const said = reports.findLast(({ booted }) => booted?.slot === slot);
  const release = trial?.release ?? said?.booted?.release;
  const isConfirmed = trial === undefined;
  const record = kept?.slots[slot];
  if (record && release && record.release?.counter === release.counter)
    return { ...record, state: 'altered', isConfirmed };
  const completed = reports.findLast(
    report => report.state === 'completed' && report.release?.counter === release?.counter,
  );
  return {
    state: 'altered',
    isConfirmed,
    ...(release && { release }),
    ...(completed?.rollout && { rollout: completed.rollout }),
  };
}

function rolloutsOf(reports: readonly Report[], kept: AgentState | undefined): RolloutRecord[] {
  const byId = new Map<string, RolloutRecord>(kept?.rollouts.map(entry => [entry.id, entry]));
  for (const { rollout, state, reason, at, booted } of reports) {
    if (!rollout) continue;
    const entry = byId.get(rollout.id) ?? { id: rollout.id, latchedAt: at };
    const outcome = outcomeOf(state, reason?.code);
    const isNewer = rollout.attempt >= (entry.ended?.attempt ?? 0);
    byId.set(rollout.id, {
      ...entry,
      ...(state === 'installing' && booted?.release && !entry.ended ? { cameFrom: booted.release } : {}),
      ...(outcome && isNewer ? { ended: { attempt: rollout.attempt, outcome } } : {}),
    });
  }
  return [...byId.values()];
}

function outcomeOf(
  state: Report['state'],
  code: string | undefined,
): 'completed' | 'failed' | 'rolledBack' | undefined {
  if (state === 'completed' || state === 'failed') return state;
  if (state === 'rolledBack') return code === ROLLBACK_ORDERED ? 'rolledBack' : 'failed';
  return undefined;
}

function barredOf(reports: readonly Report[], kept: AgentState | undefined): BarredRelease[] {
  const byCounter = new Map<number, BarredRelease>(kept?.barred.map(entry => [entry.counter, entry]));
  for (const { state, rollout, release, reason, at } of reports) {
    if (!release) continue;
    if (hasProved(state, reason?.code)) byCounter.delete(release.counter);
    if (!reason || !hasFailed(state, reason.code)) continue;
    const attempt = Math.max(rollout?.attempt ?? 1, byCounter.get(release.counter)?.attempt ?? 1);
    byCounter.set(release.counter, { ...release, attempt, reason, at });
  }
  return [...byCounter.values()];
}

/** Whether the report says that a release was booted and given up. */
function hasFailed(state: Report['state'], code: string): boolean {
  return (state === 'failed' || state === 'rolledBack') && PROOF_FAILURES.has(code);
}

/** Whether the report says that a release passed its trial, after an order to install it or to go back to it. */
function hasProved(state: Report['state'], code: string | undefined): boolean {
  return state === 'completed' || (state === 'rolledBack' && code === ROLLBACK_ORDERED);
}

function lastActivationOf(reports: readonly Report[]): string | undefined {
  return reports.findLast(({ state }) => state === 'installing' || state === 'rebooting')?.at;
}

/**
 * Adds facts from the copy to a readable state: releases that failed here, and rollouts that have reached this device. They are missing
 * where damage left the file readable. Only a success lifts a bar, and the slot's record shows that: so neither an older copy nor a bar
 * that an earlier version has left counts against it.
 */
export function withKept(agentState: AgentState, kept: AgentState | undefined): AgentState {
  const known = new Set(agentState.barred.map(({ counter }) => counter));
  const missing = kept?.barred.filter(({ counter }) => !known.has(counter)) ?? [];
  const ids = new Set(agentState.rollouts.map(({ id }) => id));
  const rollouts = kept?.rollouts.filter(({ id }) => !ids.has(id)) ?? [];
  const all = [...missing, ...agentState.barred];
  const barred = all.filter(({ counter }) => !hasProvedHere(agentState, counter));
  if (barred.length === known.size && missing.length === 0 && rollouts.length === 0) return agentState;
  return { ...agentState, barred, rollouts: [...rollouts, ...agentState.rollouts] };
}

/** Whether the slots show that the release passed its trial here: a slot whose release failed is bad. */
function hasProvedHere({ slots }: AgentState, counter: number): boolean {
  return [slots.A, slots.B].some(
    ({ isConfirmed = false, state, release }) =>
      isConfirmed && state !== 'bad' && release?.counter === counter,
  );
}
