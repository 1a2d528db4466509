import { afterAll, afterEach, beforeEach, expect, it } from 'vitest';
import type { Records } from '../storage/records.ts';
import { type TestDatabase, openTestDatabase, removeTemporaryDirectories } from '../testing/world.ts';
import {
  MAX_DEAD_LETTERS,
  MAX_DEVICE_REPORTS,
  MAX_STRANGERS_REPORTS,
  MAX_TOLD_LETTERS,
  Outbox,
  type OutboxEntry,
} from './outbox.ts';

afterAll(removeTemporaryDirectories);

let database: TestDatabase;
let records: Records;
let outbox: Outbox;
beforeEach(async () => {
  database = await openTestDatabase();
  records = database.records('outbox');
  outbox = await Outbox.open(records, Date.now);
});
afterEach(() => database.close());

const envelope = { payload: 'AAAA', payloadType: 't', signatures: [{ keyid: 'k', sig: 'AAAA' }] };

function entry(seq: number, more: Partial<OutboxEntry> = {}): OutboxEntry {
  return { id: 'device', epoch: 'e', seq, digest: 'd'.repeat(16), isKnown: true, envelope, ...more };
}

const entries = (count: number, more: Partial<OutboxEntry> = {}): OutboxEntry[] =>
  Array.from({ length: count }, (_, at) => entry(at + 1, more));

it('takes as many reports of a device as it may have, and no more until some have left', async () => {
  await outbox.add(entries(MAX_DEVICE_REPORTS));
  await expect(outbox.add([entry(MAX_DEVICE_REPORTS + 1)])).rejects.toMatchObject({
    code: 'SITECAST_OUTBOX_FULL',
    kind: 'noSpace',
  });
  await outbox.add([entry(1, { id: 'another' })]);
  expect(await outbox.acknowledge({ id: 'device', epoch: 'e', seq: 10 })).toBe(10);
  await outbox.add([entry(MAX_DEVICE_REPORTS + 1)]);
  expect(outbox.length).toBe(MAX_DEVICE_REPORTS - 8);
});

it('gives all strangers together one small share, and known devices the rest', async () => {
  const perStranger = 500;
  for (let at = 0; at < MAX_STRANGERS_REPORTS / perStranger; at += 1)
    await outbox.add(entries(perStranger, { id: `stranger-${at}`, isKnown: false }));
  await expect(outbox.add([entry(1, { id: 'one-more', isKnown: false })])).rejects.toMatchObject({
    code: 'SITECAST_OUTBOX_FULL',
  });
  await outbox.add([entry(1)]);
  const again = await Outbox.open(records, Date.now);
  await expect(again.add([entry(2, { id: 'one-more', isKnown: false })])).rejects.toMatchObject({
    code: 'SITECAST_OUTBOX_FULL',
  });
});

it('counts a report once however often it comes, but sends on both that bear one number', async () => {
  await outbox.add([entry(1), entry(1)]);
  await outbox.add([entry(1)]);
  await outbox.add([entry(1, { digest: 'f'.repeat(16) })]);
  const waiting = await outbox.next(undefined, { maxReports: 10, maxBytes: 10_000 });
  expect(waiting.map(({ digest }) => digest[0])).toEqual(['d', 'f']);
  await outbox.acknowledge({ id: 'device', epoch: 'e', seq: 1 });
  await outbox.add([entry(1)]);
  expect(outbox.length).toBe(0);
});

it('leaves the reports of another chain and the later ones where they are', async () => {
  await outbox.add([
    entry(1),
    entry(2),
    entry(3),
    entry(1, { epoch: 'f' }),
    entry(10),
    entry(2, { id: 'other' }),
  ]);
  await outbox.acknowledge({ id: 'device', epoch: 'e', seq: 2 });
  const waiting = await outbox.next(undefined, { maxReports: 10, maxBytes: 10_000 });
  expect(waiting.map(({ id, epoch, seq }) => `${id} ${epoch} ${seq}`)).toEqual([
    'device e 3',
    'device f 1',
    'device e 10',
    'other e 2',
  ]);
});

it('keeps to the size of a batch, but for one report that is larger by itself', async () => {
  await outbox.add(entries(5));
  expect(await outbox.next(undefined, { maxReports: 2, maxBytes: 10_000 })).toHaveLength(2);
  const [first] = await outbox.next(undefined, { maxReports: 5, maxBytes: 1 });
  expect(first?.seq).toBe(1);
  expect((await outbox.next(first?.key, { maxReports: 5, maxBytes: 10_000 })).map(({ seq }) => seq)).toEqual([
    2, 3, 4, 5,
  ]);
});

it('keeps the last of the reports that the origin refused', async () => {
  for (const start of [0, 600]) {
    await outbox.add(Array.from({ length: 600 }, (_, at) => entry(start + at + 1)));
    for (const waiting of await outbox.next(undefined, { maxReports: 600, maxBytes: 10 ** 9 }))
      await outbox.reject(waiting, 'SITECAST_REPORT_FORKED');
  }
  expect([outbox.deadLetters, outbox.length]).toEqual([MAX_DEAD_LETTERS, 0]);
});

it('knows what the origin refused of a chain, the newest of it, also after a restart', async () => {
  await outbox.add(entries(MAX_TOLD_LETTERS + 1));
  await outbox.add([entry(1, { epoch: 'f' }), entry(1, { id: 'another' })]);
  for (const waiting of await outbox.next(undefined, { maxReports: 1000, maxBytes: 10 ** 9 }))
    await outbox.reject(waiting, 'SITECAST_REPORT_GAP');
  const again = await Outbox.open(records, Date.now);
  for (const one of [outbox, again]) {
    const refused = one.refusedOf('device', 'e');
    expect(refused.map(({ seq }) => seq)).toEqual(
      Array.from({ length: MAX_TOLD_LETTERS }, (_, at) => at + 2),
    );
    expect(refused[0]).toEqual({ epoch: 'e', seq: 2, digest: 'd'.repeat(16), code: 'SITECAST_REPORT_GAP' });
    expect([one.refusedOf('device', 'f').length, one.refusedOf('nobody', 'e')]).toEqual([1, []]);
  }
});

it('sends what was in a damaged database, and takes anew what is no longer in it', async () => {
  await outbox.add([entry(1), entry(2), entry(3)]);
  const keys: string[] = [];
  for await (const [key] of records.entries({ from: '', below: '~' })) keys.push(key);
  const [reports, index] = [
    keys.filter(key => key.startsWith('r:')),
    keys.filter(key => key.startsWith('x:')),
  ];
  // Of the first report its index is lost, of the second the report itself; the third is unreadable.
  await records.write(
    [
      { key: index[0] ?? '', remove: true },
      { key: reports[1] ?? '', remove: true },
      { key: reports[2] ?? '', value: { id: 1 } },
    ],
    true,
  );
  const again = await Outbox.open(records, Date.now);
  expect(again.length).toBe(1);
  await again.add([entry(1), entry(2), entry(3)]);
  const waiting = await again.next(undefined, { maxReports: 10, maxBytes: 10_000 });
  expect(waiting.map(({ seq }) => seq)).toEqual([1, 2, 3]);
  expect(await again.acknowledge({ id: 'device', epoch: 'e', seq: 3 })).toBe(3);
  expect(again.length).toBe(0);
});
