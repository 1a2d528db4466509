import { expect, it } from 'vitest';
import { auditKey } from '../adapters/embedded/database.ts';
import { openStores } from '../adapters/embedded/stores.ts';
import { testLog } from '../testing/origin.ts';
import { MemoryTables } from '../testing/memory-tables.ts';
import { AuditSelfCheck } from './self-check.ts';

const ENTRIES = 2500;

async function opened() {
  const tables = new MemoryTables();
  const { audit } = await openStores(tables, () => Date.parse('2030-01-01T00:00:00Z'));
  const event = (at: number) => ({ by: 'ann', action: 'device.revoke' as const, subject: `device:${at}` });
  await audit.record(...Array.from({ length: ENTRIES }, (_, at) => event(at)));
  const logged: string[] = [];
  return { tables, audit, event, logged, check: new AuditSelfCheck({ audit, log: testLog(logged) }) };
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
