import { describe, expect, it } from 'vitest';
import { AuditChainCheck, type AuditEntry, type AuditHead, hashOfEntry } from './index.ts';

function logOf(count: number): AuditEntry[] {
  const entries: AuditEntry[] = [];
  let previous: string | null = null;
  for (let seq = 1; seq <= count; seq += 1) {
    const entry = {
      seq,
      at: '2030-01-01T00:00:00.000Z',
      by: 'ann',
      action: 'device.revoke',
      subject: `device:${seq}`,
      details: { share: 0.25, b: [1, null, { y: 'ü"\n', x: true }] },
      previous,
    };
    previous = hashOfEntry(entry);
    entries.push({ ...entry, hash: previous });
  }
  return entries;
}

function check(entries: readonly AuditEntry[], told: AuditHead | undefined, expected?: AuditHead): AuditHead {
  const found = new AuditChainCheck(expected);
  for (const entry of entries) found.take(entry);
  found.end(told ?? { seq: 0, hash: null });
  return found.head;
}

const brokenAt = (seq: number) => expect.objectContaining({ code: 'SITECAST_AUDIT_BROKEN', data: { seq } });

describe('an audit log', () => {
  it('that is whole passes the check, an empty one too', () => {
    const log = logOf(3);
    expect(check(log, log.at(-1))).toEqual({ seq: 3, hash: log[2]?.hash });
    expect(check([], undefined)).toEqual({ seq: 0, hash: null });
  });

  it('has the same hashes whatever the order of an entry’s members', () => {
    const [entry] = logOf(1);
    if (!entry) throw new Error('no entry');
    const turned: AuditEntry = JSON.parse(
      JSON.stringify(Object.fromEntries(Object.entries(entry).reverse())),
    );
    expect(hashOfEntry(turned)).toBe(entry.hash);
    expect(hashOfEntry({ ...entry, details: { share: 0.5 } })).not.toBe(entry.hash);
  });

  it.each(['at', 'by', 'action', 'subject'] as const)('breaks at an entry whose %s was altered', field => {
    const log = logOf(3);
    const altered = log.map(entry => (entry.seq === 2 ? { ...entry, [field]: 'x' } : entry));
    expect(() => check(altered, log.at(-1))).toThrow(brokenAt(2));
  });

  it('breaks at the first entry that was removed, inserted or forged', () => {
    const log = logOf(4);
    expect(() => check(log.toSpliced(1, 1), log.at(-1))).toThrow(brokenAt(2));
    const [, second] = log;
    if (!second) throw new Error('no entry');
    expect(() => check(log.toSpliced(1, 0, second), log.at(-1))).toThrow(brokenAt(3));
    const forged = { ...second, by: 'eve' };
    const anew = log.toSpliced(1, 1, { ...forged, hash: hashOfEntry(forged) });
    expect(() => check(anew, log.at(-1))).toThrow(brokenAt(3));
  });

  it('that ends too early is found by its head, or by a head noted earlier', () => {
    const log = logOf(4);
    expect(() => check(log.slice(0, 2), log[3])).toThrow(brokenAt(3));
    expect(() => check(log.slice(0, 2), log[1], log[3])).toThrow(brokenAt(3));
    expect(check(log, log[3], log[1]).seq).toBe(4);
  });

  it('that was rewritten is found by a head noted earlier', () => {
    const log = logOf(4);
    expect(() => check(log, log[3], { seq: 2, hash: 'f'.repeat(64) })).toThrow(brokenAt(2));
  });
});
