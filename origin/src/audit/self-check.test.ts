import { expect, it } from 'vitest';
import { auditKey } from '../adapters/embedded/database.ts';
import { openStores } from '../adapters/embedded/stores.ts';
import { testLog } from '../testing/origin.ts';
import { MemoryTables } from '../testing/memory-tables.ts';
import type { AuditLog } from './audit.ts';
import { AuditSelfCheck } from './self-check.ts';

const ENTRIES = 2500;

async function opened() {
  const tables = new MemoryTables();
  const { audit } = await openStores(tables, () => Date.parse('2030-01-01T00:00:00Z'));
  const event = (at: number) => ({ by: 'ann', action: 'device.revoke' as const, subject: `device:${at}` });
  await audit.record(...Array.from({ length: ENTRIES }, (_, at) => event(at)));
  const logged: string[] = [];
  const clock = { nowMs: Date.parse('2030-01-02T00:00:00Z') };
  const check = new AuditSelfCheck({ audit, log: testLog(logged), now: () => clock.nowMs });
  return { tables, audit, event, logged, clock, check };
}

it('finds an altered entry, however far from the end, says so once, and that it is well again', async () => {
  const { tables, audit, event, logged, check } = await opened();
  await check.look();
  expect(check.isBroken).toBe(false);
  const key = auditKey(1200);
  const right = await tables.get('audit', key);
  await tables.commit([{ table: 'audit', key, value: { ...Object(right), by: 'mallory' } }]);
  for (let look = 0; look < 2; look += 1) await check.look();
  expect(check.isBroken).toBe(true);
  expect(logged.filter(line => line.includes('the audit log is broken'))).toHaveLength(1);
  await tables.commit([{ table: 'audit', key, value: right }]);
  await audit.record(event(ENTRIES));
  await check.look();
  expect(check.isBroken).toBe(false);
});

it.each([true, false])('finds that the log is shorter than it was (looked at before: %s)', async isSeen => {
  const { tables, check } = await opened();
  if (isSeen) await check.look();
  await tables.commit([{ table: 'audit', key: auditKey(ENTRIES), value: undefined }]);
  await check.look();
  expect(check.isBroken).toBe(true);
});

it.each([
  ['is garbage', () => 'garbage'],
  ['has no hash', (entry: object) => ({ ...entry, hash: undefined })],
])('counts an entry that %s as broken, says so once, and is well when it is back', async (_what, damage) => {
  const { tables, logged, check } = await opened();
  await check.look();
  const key = auditKey(1200);
  const right = await tables.get('audit', key);
  await tables.commit([{ table: 'audit', key, value: damage(Object(right)) }]);
  for (let look = 0; look < 2; look += 1) await check.look();
  expect(check.isBroken).toBe(true);
  expect(logged.filter(line => line.includes('the audit log is broken'))).toHaveLength(1);
  await tables.commit([{ table: 'audit', key, value: right }]);
  await check.look();
  expect(check.isBroken).toBe(false);
});

const HOUR_MS = 3_600_000;

it('looks every 6 hours while all is well, and after an hour when a look found something wrong or failed', async () => {
  const { tables, audit, clock, logged } = await opened();
  let looks = 0;
  let isFailing = false;
  const counted: AuditLog = {
    get head() {
      looks += 1;
      if (isFailing) throw new Error('the disk does not answer');
      return audit.head;
    },
    record: (...events) => audit.record(...events),
    find: (...asked) => audit.find(...asked),
  };
  const check = new AuditSelfCheck({ audit: counted, log: testLog(logged), now: () => clock.nowMs });
  /** @returns whether it looked, so many hours after the last question */
  const looksAfter = async (hours: number): Promise<boolean> => {
    clock.nowMs += hours * HOUR_MS;
    const before = looks;
    await check.lookIfDue().catch(() => undefined);
    return looks > before;
  };
  expect([await looksAfter(0), await looksAfter(5.9), await looksAfter(0.1)]).toEqual([true, false, true]);
  const key = auditKey(1200);
  const right = await tables.get('audit', key);
  await tables.commit([{ table: 'audit', key, value: 'garbage' }]);
  expect([await looksAfter(6), await looksAfter(0.9), await looksAfter(0.1)]).toEqual([true, false, true]);
  await tables.commit([{ table: 'audit', key, value: right }]);
  expect([await looksAfter(1), await looksAfter(1), check.isBroken]).toEqual([true, false, false]);
  isFailing = true;
  expect([await looksAfter(5), await looksAfter(1), await looksAfter(1)]).toEqual([true, true, true]);
  // A clock that is set back doesn't put it off.
  isFailing = false;
  expect([await looksAfter(1), await looksAfter(-48)]).toEqual([true, true]);
});
