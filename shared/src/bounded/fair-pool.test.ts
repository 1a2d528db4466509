import { describe, expect, it } from 'vitest';
import { FairPool } from './fair-pool.ts';

const KIB = 1024;

/** Leases whose ends are recorded. */
function testPool(maxBytes: number) {
  const memory = new FairPool({ max: maxBytes, minUnits: 4 * KIB });
  const takenBack: string[] = [];
  const lease = (sender: string, lengthBytes = 8 * KIB, name = sender) =>
    memory.lease(sender, lengthBytes, () => takenBack.push(name));
  return { memory, takenBack, lease };
}

describe('a pool that owners share', () => {
  it('takes back the oldest lease of the owner that holds the most', () => {
    const { lease, takenBack, memory } = testPool(32 * KIB);
    lease('greedy', 8 * KIB, 'greedy 1');
    lease('modest');
    lease('greedy', 8 * KIB, 'greedy 2');
    lease('greedy', 8 * KIB, 'greedy 3');
    expect(lease('new')).toBeDefined();
    expect(takenBack).toEqual(['greedy 1']);
    expect(memory.used).toBe(32 * KIB);
  });

  it('takes back the oldest of all where all hold the same, so that no flood keeps a newcomer out', () => {
    const { lease, takenBack } = testPool(32 * KIB);
    for (const sender of ['a', 'b', 'c', 'd']) lease(sender);
    expect(lease('new')).toBeDefined();
    expect(takenBack).toEqual(['a']);
  });

  it('refuses an owner that would hold more than any owner with a lease to take back', () => {
    const { lease, takenBack } = testPool(32 * KIB);
    lease('greedy', 24 * KIB)?.keep();
    lease('modest');
    expect(lease('greedy')).toBeUndefined();
    expect(takenBack).toEqual([]);
  });

  it('never takes back a lease that is kept', () => {
    const { lease, takenBack } = testPool(16 * KIB);
    lease('a')?.keep();
    lease('b')?.keep();
    expect(lease('c')).toBeUndefined();
    expect(takenBack).toEqual([]);
  });

  it('gets all units back in the end, however often a lease is returned', () => {
    const { lease, memory } = testPool(16 * KIB);
    const taken = lease('a');
    const kept = lease('a');
    kept?.keep();
    const other = lease('b');
    taken?.release();
    for (const one of [kept, kept, other, other]) one?.release();
    expect(memory.used).toBe(0);
  });

  it('refuses a lease larger than the pool, and counts a small lease as 4 KiB', () => {
    const { lease, memory } = testPool(16 * KIB);
    expect(lease('a', 17 * KIB)).toBeUndefined();
    lease('a', 1);
    expect(memory.used).toBe(4 * KIB);
  });

  it('takes back an owner’s own oldest lease when it exceeds its share', () => {
    const takenBack: string[] = [];
    const pool = new FairPool({ max: 10, maxPerOwner: 2 });
    for (const name of ['a1', 'a2', 'a3']) pool.lease('a', 1, () => takenBack.push(name));
    expect(takenBack).toEqual(['a1']);
    expect(pool).toMatchObject({ used: 2, counts: { takenBack: 1, refused: 0 } });
  });

  it('spares owners that hold no more than a newcomer would, where that is configured', () => {
    const takenBack: string[] = [];
    const pool = new FairPool({ max: 3, sparesEquals: true });
    const lease = (owner: string) => pool.lease(owner, 1, () => takenBack.push(owner));
    for (const owner of ['a', 'b', 'b']) lease(owner);
    expect(lease('b')).toBeUndefined();
    expect(lease('c')).toBeDefined();
    expect(takenBack).toEqual(['b']);
    expect(lease('d')).toBeUndefined();
    const alone = new FairPool({ max: 2, sparesEquals: true });
    const leases = [1, 2, 3].map(() => alone.lease('a', 1, () => takenBack.push('alone')) !== undefined);
    expect(leases).toEqual([true, true, false]);
    expect(takenBack).toEqual(['b']);
  });
});
