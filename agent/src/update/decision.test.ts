import { isOpen, parseWindow, type Rollout } from '@sitecast/shared/fleet';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { activationWait, downloadWait } from './schedule.ts';
import { bootVerdict, type SlotVerdict, slotVerdict } from './boot-verdict.ts';
import { choose, type Facts } from './choose.ts';
import { type AgentState, newAgentState, type SlotRecord, type Update } from '../state/agent-state.ts';

const id = '12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN';
const at = '2030-01-01T00:00:00Z';

function rollout(counter: number, changes: Partial<Rollout> = {}): Rollout {
  return {
    id: counter.toString(16).padStart(16, '0'),
    release: { counter, version: `${counter}.0`, manifestSha256: 'a'.repeat(64) },
    state: 'active',
    match: {},
    cohort: { below: null },
    offlineForMs: 1000,
    maxDownBasisPoints: 10_000,
    attempt: 1,
    createdAt: at,
    ...changes,
  };
}

function facts(rollouts: Rollout[], agentState: Partial<AgentState> = {}, floor = 0): Facts {
  return {
    product: 'camera',
    hardware: 'rpi4',
    assignment: {
      format: 'sitecast-assignment-1',
      id,
      kind: 'device',
      site: 'north',
      tags: {},
      serial: 1,
      enrolledAt: at,
      issuedAt: at,
    },
    productFile: {
      format: 'sitecast-product-1',
      product: 'camera',
      hardware: ['rpi4'],
      lastCounter: 9,
      floor: { counter: floor },
    },
    rollouts: { format: 'sitecast-rollouts-1', product: 'camera', rollouts, revoked: [] },
    booted: 'A',
    agentState: { ...newAgentState(), ...agentState },
  };
}

const running = (counter: number, other?: number): AgentState['slots'] => ({
  A: { state: 'verified', release: { counter, version: `${counter}.0` } },
  B:
    other === undefined
      ? { state: 'empty' }
      : { state: 'verified', release: { counter: other, version: `${other}.0` } },
});
const latched = (counter: number, more = {}) => ({ id: rollout(counter).id, latchedAt: at, ...more });

describe('the choice', () => {
  it.each([
    ['the newest active rollout', facts([rollout(1), rollout(2)]), [2, 1]],
    ['nothing, where its release runs', facts([rollout(1), rollout(2)], { slots: running(2) }), []],
    ['nothing aborted', facts([rollout(1), rollout(2, { state: 'aborted' })]), [1]],
    ['nothing of another cohort', facts([rollout(2, { cohort: { below: '0'.repeat(64) } })]), []],
    [
      'nothing for devices enrolled before, of those later',
      facts([rollout(2, { cohort: { below: 'f'.repeat(64), asOf: '2029-01-01T00:00:00Z' } })]),
      [],
    ],
    ['the baseline, for a latecomer', facts([rollout(2, { state: 'completed' })]), [2]],
    ['no baseline that leads back', facts([rollout(2, { state: 'completed' })], { slots: running(3) }), []],
    ['an active rollout that leads back', facts([rollout(2)], { slots: running(3) }), [2]],
    ['nothing below the floor', facts([rollout(2)], {}, 3), []],
    ['nothing paused, and nothing older instead', facts([rollout(1), rollout(2, { state: 'paused' })]), []],
    [
      'a latched rollout, whatever it matches by now',
      facts([rollout(2, { match: { sites: ['south'] } })], { rollouts: [latched(2)] }),
      [2],
    ],
    [
      'no attempt a second time',
      facts([rollout(2)], { rollouts: [latched(2, { ended: { attempt: 1, outcome: 'failed' } })] }),
      [],
    ],
    [
      'the next attempt',
      facts([rollout(2, { attempt: 2 })], {
        rollouts: [latched(2, { ended: { attempt: 1, outcome: 'failed' } })],
      }),
      [2],
    ],
    [
      'no rolling back of what it was never in',
      facts([rollout(2, { state: 'rollingBack' })], { slots: running(2, 1) }),
      [],
    ],
    [
      'the release it came from',
      facts([rollout(2, { state: 'rollingBack' })], {
        slots: running(2, 1),
        rollouts: [latched(2, { cameFrom: { counter: 1, version: '1.0' } })],
      }),
      [1],
    ],
    [
      'the release the order names',
      facts([rollout(2, { state: 'rollingBack', rollbackTo: { counter: 1, version: '1.0' } })], {
        slots: running(2),
        rollouts: [latched(2)],
      }),
      [1],
    ],
    [
      'nothing more where the order has led it, whatever the baseline is',
      facts(
        [
          rollout(2, { state: 'completed' }),
          rollout(3, { state: 'rollingBack', rollbackTo: { counter: 1, version: '1.0' } }),
        ],
        { slots: running(1), rollouts: [latched(3, { ended: { attempt: 1, outcome: 'rolledBack' } })] },
      ),
      [],
    ],
    [
      'no way back below the floor',
      facts(
        [rollout(2, { state: 'rollingBack' })],
        { slots: running(2, 1), rollouts: [latched(2, { cameFrom: { counter: 1, version: '1.0' } })] },
        2,
      ),
      [],
    ],
  ])('takes %s', (_name, given, counters) => {
    expect(choose(given).orders.map(({ release }) => release.counter)).toEqual(counters);
  });

  it('bars a release that failed here until the attempt number rises, in any rollout', () => {
    const barred = [
      { counter: 2, version: '2.0', attempt: 1, reason: { code: 'healthFailed', message: '' }, at },
    ];
    expect(choose(facts([rollout(2, { id: 'b'.repeat(16) })], { barred })).reason?.code).toBe(
      'SITECAST_RELEASE_BARRED',
    );
    expect(choose(facts([rollout(2, { attempt: 2 })], { barred })).orders).toHaveLength(1);
  });

  it('never orders a release that is below the floor, barred, ended or not listed, whatever the rollouts say', () => {
    const states = fc.constantFrom<Rollout['state']>(
      'active',
      'paused',
      'aborted',
      'completed',
      'rollingBack',
    );
    const anyRollout = fc.record({
      counter: fc.integer({ min: 1, max: 6 }),
      state: states,
      attempt: fc.integer({ min: 1, max: 3 }),
      isLatched: fc.boolean(),
    });
    fc.assert(
      fc.property(
        fc.uniqueArray(anyRollout, { selector: ({ counter }) => counter, maxLength: 6 }),
        fc.integer({ min: 0, max: 6 }),
        fc.integer({ min: 1, max: 6 }),
        fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined }),
        (some, floor, booted, other) => {
          const rollouts = some.map(({ counter, state, attempt }) => rollout(counter, { state, attempt }));
          const agentState = {
            slots: running(booted, other),
            rollouts: some
              .filter(({ isLatched }) => isLatched)
              .map(({ counter }) => latched(counter, { cameFrom: { counter: 1, version: '1.0' } })),
            barred: [
              { counter: 3, version: '3.0', attempt: 3, reason: { code: 'healthFailed', message: '' }, at },
            ],
          };
          const { orders } = choose(facts(rollouts, agentState, floor));
          for (const { kind, release, rollout: by } of orders) {
            expect(release.counter).toBeGreaterThanOrEqual(floor);
            expect(release.counter).not.toBe(booted);
            const order = rollouts.find(({ id: known }) => known === by.id);
            expect(order?.state).toBe(
              kind === 'rollBack' ? 'rollingBack' : order?.state === 'completed' ? 'completed' : 'active',
            );
            expect(kind === 'install' && release.counter === 3).toBe(false);
          }
        },
      ),
      // Both slots hold the same release, and the device must leave it.
      { examples: [[[{ counter: 1, state: 'rollingBack', attempt: 1, isLatched: true }], 0, 1, 1]] },
    );
  });
});

describe('an activation', () => {
  const now = Date.parse(at);
  const fine = {
    nowMs: now,
    clock: { state: 'ok' as const, issuedMs: now - 60_000 },
    isSynchronised: undefined,
    isRefreshed: true,
    isUrgent: false,
    rollout: { offlineForMs: 3_600_000 },
    minIntervalMs: 0,
    lastActivationMs: undefined,
  };

  it.each([
    ['nothing', fine, undefined],
    [
      'freshness, offline for too long',
      { ...fine, isRefreshed: false, clock: { state: 'ok' as const, issuedMs: now - 4_000_000 } },
      'freshness',
    ],
    [
      'nothing, offline within its time',
      { ...fine, isRefreshed: false, clock: { state: 'ok' as const, issuedMs: now - 3_000_000 } },
      undefined,
    ],
    [
      'freshness, where a gateway confirms what is old',
      { ...fine, clock: { state: 'ok' as const, issuedMs: now - 8_000_000 } },
      'freshness',
    ],
    [
      'nothing, refreshed by a clock that is behind',
      { ...fine, clock: { state: 'behind' as const, issuedMs: now + 9e9 } },
      undefined,
    ],
    [
      'freshness, not refreshed by a clock that is behind',
      { ...fine, isRefreshed: false, clock: { state: 'behind' as const, issuedMs: now + 9e9 } },
      'freshness',
    ],
    ['notBefore', { ...fine, rollout: { ...fine.rollout, notBefore: '2030-01-01T00:00:01Z' } }, 'notBefore'],
    [
      'the time, where nothing vouches for it',
      { ...fine, isSynchronised: false, rollout: { ...fine.rollout, notBefore: at } },
      'time',
    ],
    ['the interval', { ...fine, minIntervalMs: 1000, lastActivationMs: now - 999 }, 'interval'],
    [
      'nothing, when the interval is over',
      { ...fine, minIntervalMs: 1000, lastActivationMs: now - 1000 },
      undefined,
    ],
    [
      'nothing, when the clock was set back',
      { ...fine, minIntervalMs: 1000, lastActivationMs: now + 9e9 },
      undefined,
    ],
    [
      'nothing, to go back',
      { ...fine, isUrgent: true, minIntervalMs: 1000, lastActivationMs: now },
      undefined,
    ],
  ])('waits for %s', (_name, given, waitsFor) => {
    expect(activationWait(given)?.for).toBe(waitsFor);
  });
});

describe('a download', () => {
  // A Monday at noon, local time.
  const noon = new Date(2030, 0, 7, 12).getTime();
  const facts = (rollout: Parameters<typeof downloadWait>[0]['rollout']) => ({
    nowMs: noon,
    clock: { state: 'ok' as const, issuedMs: noon },
    isSynchronised: true,
    rollout,
  });

  it.each([
    [{ window: 'Mon 01:00-02:00' }, undefined],
    [{ window: 'Mon 01:00-02:00', download: 'anytime' as const }, undefined],
    [{ window: 'Mon 01:00-02:00', download: 'window' as const }, 'window'],
    [{ window: 'Mon 11:00-13:00', download: 'window' as const }, undefined],
  ])('ordered as %j waits for %s', (rollout, waitsFor) => {
    expect(downloadWait(facts(rollout))?.for).toBe(waitsFor);
  });
});

describe('a window', () => {
  const sunday = 0;
  it.each([
    ['01:00-05:00', 3, 60, true],
    ['01:00-05:00', 3, 300, false],
    ['Mon-Fri 01:00-05:00', sunday, 120, false],
    ['Fri-Mon 01:00-05:00', sunday, 120, true],
    ['Sat 22:00-04:00', sunday, 239, true],
    ['Sat 22:00-04:00', sunday, 240, false],
    ['Sat 22:00-04:00', 6, 60, false],
    ['Wed 00:00-24:00', 3, 1439, true],
    ['Mon 01:00-02:00, Sun 03:00-04:00', sunday, 200, true],
  ])('%s on day %i at minute %i: %s', (text, day, minute, expected) => {
    expect(isOpen(parseWindow(text), { day, minute })).toBe(expected);
  });

  it.each([
    '',
    'Mon',
    '25:00-26:00',
    'mon 01:00-02:00',
    '1:00-2:00',
    `${'01:00-02:00,'.repeat(16)}01:00-02:00`,
  ])('refuses %s', text => {
    expect(() => parseWindow(text)).toThrow(expect.objectContaining({ code: 'SITECAST_WINDOW_INVALID' }));
  });
});

it.each<[Update['phase'], 'A' | 'B', string, string]>([
  ['downloading', 'A', 'new', 'notTold'],
  ['verified', 'A', 'new', 'notTold'],
  ['activating', 'A', 'new', 'notTold'],
  ['activating', 'B', 'new', 'firstBoot'],
  ['rebooting', 'A', 'old', 'askAgain'],
  ['rebooting', 'B', 'new', 'firstBoot'],
  ['rebooting', 'A', 'new', 'bootCountExhausted'],
  ['confirming', 'B', 'old', 'sameBoot'],
  ['confirming', 'B', 'new', 'powerLoss'],
  ['confirming', 'A', 'new', 'bootCountExhausted'],
  ['confirmed', 'B', 'new', 'confirmed'],
  ['fallingBack', 'B', 'new', 'askAgain'],
  ['fallingBack', 'A', 'new', 'fellBack'],
])('in phase %s, with slot %s running in the %s boot, the decision is %s', (phase, booted, boot, verdict) => {
  expect(bootVerdict({ phase, target: 'B', bootId: 'old' }, { booted, next: booted, bootId: boot })).toBe(
    verdict,
  );
});

// A ran last.
describe('where B runs and no order says so', () => {
  const bad: SlotRecord = { state: 'bad', isConfirmed: true };
  const good: SlotRecord = { state: 'verified', isConfirmed: true };
  const written: SlotRecord = { state: 'altered', isConfirmed: true };
  const untried: SlotRecord = { state: 'verified' };
  const unknown: SlotRecord = { state: 'empty' };
  const inVain = { count: 2, bootId: 'before' };
  const table: [string, SlotRecord, string, SlotRecord, 'A' | 'B', SlotVerdict, SlotVerdict][] = [
    // B is, A is, the loader says next, verdict, and after two boots back in vain
    ['good', good, 'good', good, 'B', 'left', 'left'],
    ['good', good, 'good', good, 'A', 'goBack', 'left'],
    ['good, written to', written, 'good', written, 'A', 'goBack', 'left'],
    ['good', good, 'bad', bad, 'B', 'left', 'left'],
    ['good', good, 'bad', bad, 'A', 'left', 'left'],
    ['good', good, 'not known', unknown, 'A', 'goBack', 'left'],
    ['bad', bad, 'good', good, 'B', 'goBack', 'stay'],
    ['bad', bad, 'good', good, 'A', 'goBack', 'stay'],
    ['bad', bad, 'bad', bad, 'B', 'stay', 'stay'],
    ['bad', bad, 'bad', bad, 'A', 'stay', 'stay'],
    ['untried', untried, 'good', good, 'B', 'goBack', 'stay'],
    ['untried', untried, 'good', good, 'A', 'goBack', 'stay'],
    ['untried', untried, 'bad', bad, 'B', 'stay', 'stay'],
    ['not known', unknown, 'good', good, 'B', 'goBack', 'stay'],
    ['not known', unknown, 'good', good, 'A', 'goBack', 'stay'],
    ['not known', unknown, 'bad', bad, 'A', 'stay', 'stay'],
  ];
  it.each(table)('B is %s %#', (_b, B, _a, A, next, verdict, later) => {
    const state = { ...newAgentState(), booted: 'A' as const, slots: { A, B } };
    const boot = { booted: 'B' as const, next, bootId: 'this' };
    expect(slotVerdict(state, boot)).toBe(verdict);
    expect(slotVerdict({ ...state, returns: inVain }, boot)).toBe(later);
    // The boot in which the second one was asked for goes on as before.
    expect(slotVerdict({ ...state, returns: { count: 2, bootId: 'this' } }, boot)).toBe(verdict);
  });

  it.each<[Update['phase'], SlotVerdict]>([
    ['downloading', 'goBack'],
    ['verified', 'goBack'],
    ['activating', 'expected'],
    ['rebooting', 'expected'],
    ['confirming', 'expected'],
    ['confirmed', 'expected'],
    ['fallingBack', 'expected'],
  ])('an update to B in phase %s: %s', (phase, verdict) => {
    const slots = { A: good, B: phase === 'downloading' ? bad : untried };
    const update: Update = {
      kind: 'install',
      rollout: { id: '0'.repeat(16), attempt: 1 },
      release: { counter: 2, version: '2.0' },
      target: 'B',
      phase,
      startedAt: at,
    };
    const boot = { booted: 'B', next: 'B', bootId: 'this' } as const;
    expect(slotVerdict({ ...newAgentState(), booted: 'A', slots, update }, boot)).toBe(verdict);
  });

  it('nothing is wrong where A runs, or nothing ran before', () => {
    const slots = { A: good, B: bad };
    const boot = (booted: 'A' | 'B') => ({ booted, next: 'A', bootId: 'this' }) as const;
    expect(slotVerdict({ ...newAgentState(), booted: 'A', slots }, boot('A'))).toBe('expected');
    expect(slotVerdict({ ...newAgentState(), slots }, boot('B'))).toBe('expected');
  });
});
