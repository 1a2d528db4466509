import type { Report } from '@sitecast/shared/fleet';
import { describe, expect, it } from 'vitest';
import { bootVerdict, rememberedBoot, slotVerdict } from '../update/boot-verdict.ts';
import { type AgentState, newAgentState, type Update } from './agent-state.ts';
import { rebuiltState, withKept } from './rebuild.ts';

const rollout = { id: '00000000000000aa', attempt: 2 };
const old = { counter: 1, version: '1.0.0' };
const release = { counter: 2, version: '2.0.0' };
const onA = { slot: 'A', release: old } as const;
const onB = { slot: 'B', release } as const;
const boot = (booted: 'A' | 'B') => ({ booted, next: booted, bootId: 'now' });
const bad = { state: 'bad' } as const;

const said = (state: Report['state'], changes: Partial<Report>): Report => ({
  format: 'sitecast-report-1',
  id: 'x',
  epoch: '0'.repeat(16),
  seq: 1,
  previous: null,
  at: '2030-01-01T00:00:00Z',
  timestampVersion: 1,
  state,
  ...changes,
});
const about = (state: Report['state'], booted: Report['booted'], code?: string): Report =>
  said(state, { rollout, release, booted, ...(code ? { reason: { code, message: 'm' } } : {}) });
const rebuild = (reports: Report[], booted: 'A' | 'B', kept?: AgentState): AgentState =>
  rebuiltState({ boot: boot(booted), reports, kept, other: bad });

const barred = { counter: 2, attempt: 2 };

describe('a rebuilt state', () => {
  it('has the running slot, and marks no slot as verified that was not checked', () => {
    const agentState = rebuild([about('completed', onB), said('idle', { booted: onB })], 'B');
    expect(agentState).toMatchObject({
      booted: 'B',
      update: null,
      slots: { A: { state: 'bad' }, B: { state: 'altered', isConfirmed: true, release, rollout } },
      rollouts: [{ id: rollout.id, ended: { attempt: 2, outcome: 'completed' } }],
      barred: [],
    });
    expect(slotVerdict(agentState, boot('B'))).toBe('expected');
  });

  it('has the running slot but no facts about it, without any report', () => {
    const agentState = rebuild([], 'B');
    expect(agentState).toMatchObject({
      booted: 'B',
      update: null,
      slots: { A: bad, B: { isConfirmed: true } },
    });
    expect(agentState.slots.B.release).toBeUndefined();
  });

  it.each([
    ['installing', onA],
    ['rebooting', onA],
    ['rebooting', onB],
    ['confirming', onB],
  ] as const)('lets a slot that may be on trial prove itself (%s)', (state, booted) => {
    const agentState = rebuild([about('verifying', onA), about(state, booted)], 'B');
    expect(agentState).toMatchObject({
      booted: 'A',
      update: { phase: 'confirming', target: 'B', rollout, release },
      slots: { A: bad, B: { release } },
    });
    expect(agentState.slots.B.isConfirmed).not.toBe(true);
    expect(agentState.update && bootVerdict(agentState.update, boot('B'))).toBe('sameBoot');
  });

  it.each(['installing', 'rebooting', 'confirming'] as const)(
    'does not count an unobserved boot against the release (%s, and the old slot runs)',
    state => {
      const agentState = rebuild([about(state, onA)], 'A');
      expect(agentState).toMatchObject({
        booted: 'A',
        update: null,
        barred: [],
        slots: { A: { release: old } },
      });
    },
  );

  it('continues to fall back from a failed release, which stays barred', () => {
    const reports = [about('confirming', onB), about('failed', onB, 'healthFailed')];
    const there = rebuild(reports, 'B');
    expect(there).toMatchObject({
      booted: 'A',
      update: { phase: 'fallingBack', target: 'B' },
      barred: [barred],
    });
    expect(there.update && bootVerdict(there.update, boot('B'))).toBe('askAgain');
    const back = rebuild(reports, 'A');
    expect(back).toMatchObject({ booted: 'A', update: { phase: 'fallingBack' }, barred: [barred] });
    expect(back.update && bootVerdict(back.update, boot('A'))).toBe('fellBack');
  });

  it('bars a release that failed after a boot; one that failed before only uses up its attempt', () => {
    const reports = [about('failed', onA, 'healthFailed'), about('rolledBack', onA, 'healthFailed')];
    expect(rebuild(reports, 'A')).toMatchObject({
      update: null,
      barred: [barred],
      rollouts: [{ id: rollout.id, ended: { attempt: 2, outcome: 'failed' } }],
    });
    const before = rebuild([about('failed', onA, 'SITECAST_HOOK_FAILED')], 'A');
    expect(before).toMatchObject({ update: null, barred: [], rollouts: [{ ended: { outcome: 'failed' } }] });
    const ordered = rebuild(
      [said('rolledBack', { rollout, release: old, booted: onA, reason: { code: 'ordered', message: 'm' } })],
      'A',
    );
    expect(ordered).toMatchObject({ barred: [], rollouts: [{ ended: { outcome: 'rolledBack' } }] });
  });

  it('uses values of the copy that only grow, or were verified again', () => {
    const kept: AgentState = {
      ...newAgentState(),
      booted: 'A',
      slots: {
        A: { state: 'verified', release: old, indexSha256: 'a'.repeat(64) },
        B: { state: 'verified' },
      },
      rollouts: [
        { id: 'r0', latchedAt: 'then' },
        { id: rollout.id, latchedAt: 'then', cameFrom: old },
      ],
      barred: [{ counter: 7, version: '7', attempt: 3, reason: { code: 'c', message: 'm' }, at: 'then' }],
      assignment: { signed: true },
      enrolmentNonce: 'n',
      lastActivationAt: 'then',
    };
    const agentState = rebuild([about('completed', onB)], 'B', kept);
    expect(agentState).toMatchObject({
      booted: 'B',
      slots: { A: bad, B: { release } },
      rollouts: [{ id: 'r0' }, { id: rollout.id, cameFrom: old, ended: { outcome: 'completed' } }],
      barred: [{ counter: 7, attempt: 3 }],
      assignment: { signed: true },
      enrolmentNonce: 'n',
      lastActivationAt: 'then',
    });
    expect(rebuild([said('idle', { booted: onA })], 'A', kept).slots.A).toMatchObject({
      indexSha256: 'a'.repeat(64),
    });
    // An order to roll back differs from an order to install.
    const returning = said('confirming', { rollout, release: old, booted: { slot: 'A', release: old } });
    expect(rebuild([returning], 'A', kept).update).toMatchObject({ kind: 'rollBack', target: 'A' });
  });
});

it('adds missing facts from the copy to a readable state', () => {
  const entry = (counter: number) => ({
    counter,
    version: 'v',
    attempt: 1,
    reason: { code: 'c', message: 'm' },
    at: 'then',
  });
  const kept: AgentState = {
    ...newAgentState(),
    barred: [entry(1), entry(2)],
    rollouts: [{ id: 'r1', latchedAt: 'then' }],
  };
  const agentState = { ...newAgentState(), barred: [entry(2)], rollouts: [{ id: 'r2', latchedAt: 'now' }] };
  expect(withKept(agentState, kept)).toMatchObject({
    barred: [{ counter: 1 }, { counter: 2 }],
    rollouts: [{ id: 'r1' }, { id: 'r2' }],
  });
  expect(withKept(agentState, undefined)).toBe(agentState);
  expect(withKept(kept, kept)).toBe(kept);
});

it('takes a bar that a success has lifted neither from the copy nor from reports', () => {
  const entry = { ...release, attempt: 1, reason: { code: 'healthFailed', message: 'm' }, at: 'then' };
  const kept: AgentState = { ...newAgentState(), barred: [entry] };
  const B = { state: 'verified', isConfirmed: true, release } as const;
  const proved: AgentState = { ...newAgentState(), slots: { ...newAgentState().slots, B } };
  expect(withKept(proved, kept).barred).toEqual([]);
  // An earlier version of the agent did not lift the bar.
  expect(withKept({ ...proved, barred: [entry] }, kept).barred).toEqual([]);
  const failed = { ...proved, slots: { ...proved.slots, B: { ...B, state: 'bad' as const } } };
  expect(withKept(failed, kept).barred).toEqual([entry]);
  const failure = about('rolledBack', onA, 'healthFailed');
  expect(rebuild([failure, about('completed', onB)], 'B', kept).barred).toEqual([]);
  expect(rebuild([about('completed', onB), failure], 'A', kept).barred).toMatchObject([{ counter: 2 }]);
});

describe('the slot to boot, by the agent’s own memory,', () => {
  const updating = (phase: Update['phase']): AgentState => ({
    ...newAgentState(),
    booted: 'A',
    update: { kind: 'install', rollout, release, target: 'B', phase, startedAt: '2030-01-01T00:00:00Z' },
  });
  const saidIn = (state: Report['state'], slot: 'A' | 'B', counter: number) =>
    about(state, { slot, release: { counter, version: 'v' } });

  it('is the one that ran, before the boot loader was told, or after the trial was given up', () => {
    expect(rememberedBoot({ ...newAgentState(), booted: 'A' }, false, undefined)).toEqual({ slots: ['A'] });
    // The other slot's bytes are being replaced, so it must not run.
    for (const phase of ['downloading', 'verified', 'fallingBack'] as const)
      expect(rememberedBoot(updating(phase), false, saidIn('confirming', 'B', 2))).toEqual({ slots: ['A'] });
  });

  it('may also be the one on trial after the boot loader was told, and is that one after it was confirmed', () => {
    for (const phase of ['activating', 'rebooting', 'confirming'] as const)
      expect(rememberedBoot(updating(phase), false, undefined)).toEqual({ slots: ['A', 'B'], onTrial: 'B' });
    expect(rememberedBoot(updating('confirmed'), false, undefined)).toEqual({
      slots: ['B', 'A'],
      onTrial: 'B',
    });
  });

  it('follows the newest report where the state is lost, because the update in its copy may be over', () => {
    const kept = updating('confirming');
    expect(rememberedBoot(kept, true, saidIn('idle', 'A', 1))).toEqual({ slots: ['A'] });
    expect(rememberedBoot(kept, true, saidIn('completed', 'B', 2))).toEqual({ slots: ['B', 'A'] });
    expect(rememberedBoot(kept, true, saidIn('rebooting', 'A', 1))).toEqual({
      slots: ['A', 'B'],
      onTrial: 'B',
    });
    expect(rememberedBoot(kept, true, saidIn('confirming', 'B', 2))).toEqual({
      slots: ['B', 'A'],
      onTrial: 'B',
    });
    expect(rememberedBoot(kept, true, undefined)).toEqual({ slots: ['A'] });
    expect(rememberedBoot(newAgentState(), false, undefined)).toEqual({ slots: [] });
  });
});
