import { assert, integer, property, record, string } from 'fast-check';
import { LEASE_MS } from '@sitecast/shared/api';
import { describe, expect, it } from 'vitest';
import { BEGINS_WITHIN_MS, leaveWait, maxDownOf, nextTurn, SILENT_FOR_MS, turnsIn } from './turns.ts';

const HOUR_MS = 3_600_000;
const anyTurn = record({
  rollout: string({ maxLength: 20 }),
  device: string({ maxLength: 60 }),
  knownDevices: integer({ min: 1, max: 600 }),
});
const anyTime = integer({ min: 0, max: 4e12 });

it('a cycle has 96 turns, or four for each known device', () => {
  expect([1, 24, 25, 200].map(turnsIn)).toEqual([96, 96, 100, 800]);
});

describe('a turn', () => {
  it('is not over yet, begins in the first third of a lease, and leaves two thirds of it', () => {
    assert(
      property(anyTurn, anyTime, (of, nowMs) => {
        const { beginMs, lateMs, endMs } = nextTurn(of, nowMs);
        const startMs = endMs - LEASE_MS;
        expect(startMs % LEASE_MS).toBe(0);
        expect(beginMs).toBeGreaterThanOrEqual(startMs);
        expect(beginMs).toBeLessThan(startMs + BEGINS_WITHIN_MS);
        expect(lateMs - beginMs).toBe(BEGINS_WITHIN_MS);
        expect(nowMs).toBeLessThan(lateMs);
        // At most the rest of this cycle and the whole next one.
        expect(beginMs - nowMs).toBeLessThan(2 * turnsIn(of.knownDevices) * LEASE_MS);
      }),
    );
  });

  it('comes once in each cycle, and stays the same until it is over', () => {
    assert(
      property(anyTurn, anyTime, (of, nowMs) => {
        const cycleMs = turnsIn(of.knownDevices) * LEASE_MS;
        const cycleOf = (ms: number): number => Math.floor(ms / cycleMs);
        const first = nextTurn(of, nowMs);
        expect(nextTurn(of, first.beginMs)).toEqual(first);
        expect(nextTurn(of, first.lateMs - 1)).toEqual(first);
        const second = nextTurn(of, first.lateMs);
        expect(cycleOf(second.beginMs)).toBe(cycleOf(first.beginMs) + 1);
      }),
    );
  });

  it('differs between devices, rollouts and cycles: all turns are taken about equally often', () => {
    const counts = new Map<number, number>();
    for (let at = 0; at < 9600; at += 1) {
      const turn = nextTurn({ rollout: 'r', device: `device-${at}`, knownDevices: 10 }, 0);
      counts.set(turn.endMs, (counts.get(turn.endMs) ?? 0) + 1);
    }
    const often = [...counts.values()].sort((one, other) => one - other);
    expect(often[4]).toBeGreaterThan(55);
    expect(often.at(-5)).toBeLessThan(150);
    const about = { device: 'd', knownDevices: 10 };
    const begins = Array.from(
      { length: 20 },
      (_, at) => nextTurn({ ...about, rollout: `r${at}` }, 0).beginMs,
    );
    expect(new Set(begins).size).toBeGreaterThan(15);
  });
});

describe('leave without a gateway', () => {
  const turn = { beginMs: 1000, lateMs: 2000, endMs: 3000 };
  const facts = { nowMs: 1500, turn, silentForMs: SILENT_FOR_MS, isTimeTrusted: true };

  it('is given in the turn, when no gateway has answered for 6 hours and the clock is known to be right', () => {
    expect(SILENT_FOR_MS).toBe(6 * HOUR_MS);
    expect(leaveWait(facts)).toBeUndefined();
    expect(leaveWait({ ...facts, nowMs: 1000 })).toBeUndefined();
    expect(leaveWait({ ...facts, silentForMs: SILENT_FOR_MS - 1 })).toEqual({ for: 'silence', leftMs: 1 });
    expect(leaveWait({ ...facts, isTimeTrusted: false })).toEqual({ for: 'time' });
    expect(leaveWait({ ...facts, nowMs: 999 })).toEqual({ for: 'turn', beginMs: 1000 });
  });

  it('lets as many devices be down as gateways do', () => {
    expect(maxDownOf(3, 2500)).toBe(1);
    expect(maxDownOf(8, 2500)).toBe(2);
    expect(maxDownOf(11, 2500)).toBe(2);
    expect(maxDownOf(5, 10_000)).toBe(5);
  });
});
