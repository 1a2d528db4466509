import { describe, expect, it } from 'vitest';
import { FairMemory } from './fair-memory.ts';

const KIB = 1024;

/** Leases whose ends are written down. */
function bed(maxBytes: number) {
  const memory = new FairMemory(maxBytes);
  const takenBack: string[] = [];
  const lease = (sender: string, lengthBytes = 8 * KIB, name = sender) =>
    memory.lease(sender, lengthBytes, () => takenBack.push(name));
  return { memory, takenBack, lease };
}

describe('memory that senders share', () => {
  it('takes back the oldest lease of whoever holds the most', () => {
    const { lease, takenBack, memory } = bed(32 * KIB);
    lease('greedy', 8 * KIB, 'greedy 1');
    lease('modest');
    lease('greedy', 8 * KIB, 'greedy 2');
    lease('greedy', 8 * KIB, 'greedy 3');
    expect(lease('new')).toBeDefined();
    expect(takenBack).toEqual(['greedy 1']);
    expect(memory.usedBytes).toBe(32 * KIB);
  });

  it('takes back the oldest of all where all hold the same, so that no flood keeps a newcomer out', () => {
    const { lease, takenBack } = bed(32 * KIB);
    for (const sender of ['a', 'b', 'c', 'd']) lease(sender);
    expect(lease('new')).toBeDefined();
    expect(takenBack).toEqual(['a']);
  });

  it('refuses whoever would hold more than those from whom something could be taken back', () => {
    const { lease, takenBack } = bed(32 * KIB);
    lease('greedy', 24 * KIB)?.keep();
    lease('modest');
    expect(lease('greedy')).toBeUndefined();
    expect(takenBack).toEqual([]);
  });

  it('never takes back what is in use', () => {
    const { lease, takenBack } = bed(16 * KIB);
    lease('a')?.keep();
    lease('b')?.keep();
    expect(lease('c')).toBeUndefined();
    expect(takenBack).toEqual([]);
  });

  it('has all of it back in the end, however often a lease is given back', () => {
    const { lease, memory } = bed(16 * KIB);
    const taken = lease('a');
    const kept = lease('a');
    kept?.keep();
    const other = lease('b');
    taken?.release();
    for (const one of [kept, kept, other, other]) one?.release();
    expect(memory.usedBytes).toBe(0);
  });

  it('refuses what is more than all of it, and counts small leases as 4 KiB', () => {
    const { lease, memory } = bed(16 * KIB);
    expect(lease('a', 17 * KIB)).toBeUndefined();
    lease('a', 1);
    expect(memory.usedBytes).toBe(4 * KIB);
  });
});
