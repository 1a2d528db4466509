import type { BarredRelease, AgentState, Reason, SlotRecord } from '../state/agent-state.ts';
import { otherSlot, type SlotName } from '../ports.ts';
import type { CycleResult } from '../state/status.ts';
import type { AgentParts } from './parts.ts';

/**
 * The loader gave up a slot long after that had proved itself: told as a failure of what ran there, which is barred like
 * any other that failed. Cut off anywhere, the next start finds the same again; the report is made once.
 * @param left the slot that no longer runs
 * @throws what the boot control throws
 */
export async function settleLateFallBack(
  { boot, stateFile, reporter, clock }: AgentParts,
  left: SlotName,
): Promise<CycleResult> {
  const record = stateFile.current.slots[left];
  const { release, rollout } = record;
  const reason: Reason = {
    code: 'bootCountExhausted',
    message: `slot ${left} had proved itself, and now the boot loader has left it`,
  };
  await reporter.report('rolledBack', { rollout, release, reason }, true);
  await boot.setNext(otherSlot(left));
  await boot.markBad(left);
  const at = new Date(clock.now()).toISOString();
  await stateFile.change(({ slots, rollouts, barred }) => ({
    slots: { ...slots, [left]: { ...record, state: 'bad' as const } },
    rollouts: rollouts.map(entry => (entry.id === rollout?.id ? unproved(entry) : entry)),
    barred: withBarred(barred, record, { reason, at }),
    lastFailure: { at, reason, ...(release && { release }) },
    booted: otherSlot(left),
  }));
  return { state: 'rolledBack', reason };
}

/** That it went back as it was told to stays true. */
function unproved(entry: AgentState['rollouts'][number]): AgentState['rollouts'][number] {
  return entry.ended?.outcome === 'completed'
    ? { ...entry, ended: { ...entry.ended, outcome: 'failed' } }
    : entry;
}

function withBarred(
  barred: readonly BarredRelease[],
  { release, rollout }: SlotRecord,
  about: Pick<BarredRelease, 'reason' | 'at'>,
): BarredRelease[] {
  if (!release || release.counter < 1) return [...barred];
  const { counter, version } = release;
  const others = barred.filter(entry => entry.counter !== counter);
  return [...others, { counter, version, attempt: rollout?.attempt ?? 1, ...about }];
}
