import type { KeyValueStore } from '@sitecast/shared/key-value';
import { TokenBucket } from '@sitecast/shared/bounded';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type TestDatabase, openTestDatabase, removeTemporaryDirectories } from '../testing/harness.ts';
import {
  MAX_DEAD_LETTERS,
  MAX_DEVICE,
  MAX_STRANGERS,
  MAX_TOLD_LETTERS,
  ReportQueue,
  type QueuedReport,
  type WaitingReport,
} from './report-queue.ts';

afterAll(removeTemporaryDirectories);

let database: TestDatabase;
let records: KeyValueStore;
let queue: ReportQueue;
beforeEach(async () => {
  database = await openTestDatabase();
  records = database.records('outbox');
  queue = await ReportQueue.open(records, Date.now);
});
afterEach(() => database.close());

const envelope = { payload: 'AAAA', payloadType: 't', signatures: [{ keyid: 'k', sig: 'AAAA' }] };

function entry(seq: number, more: Partial<QueuedReport> = {}): QueuedReport {
  return { id: 'device', epoch: 'e', seq, digest: 'd'.repeat(16), isKnown: true, envelope, ...more };
}

const all = (of: ReportQueue): Promise<WaitingReport[]> =>
  of.next(of.round(), { maxReports: 10_000, maxBytes: 10 ** 9 });

const entries = (count: number, more: Partial<QueuedReport> = {}): QueuedReport[] =>
  Array.from({ length: count }, (_, at) => entry(at + 1, more));

it('accepts a device’s reports up to its bound, and no more until some are gone', async () => {
  await queue.add(entries(MAX_DEVICE.reports));
  await expect(queue.add([entry(MAX_DEVICE.reports + 1)])).rejects.toMatchObject({
    code: 'SITECAST_OUTBOX_FULL',
    kind: 'noSpace',
  });
  await queue.add([entry(1, { id: 'another' })]);
  expect(await queue.acknowledge({ id: 'device', epoch: 'e', seq: 10 })).toBe(10);
  await queue.add([entry(MAX_DEVICE.reports + 1)]);
  expect(queue.length).toBe(MAX_DEVICE.reports - 8);
});

it('gives all strangers together one small share, in which the oldest make room, and known devices the rest', async () => {
  const perStranger = 500;
  for (let at = 0; at < MAX_STRANGERS.reports / perStranger; at += 1)
    await queue.add(entries(perStranger, { id: `stranger-${at}`, isKnown: false }));
  await queue.add([entry(1)]);
  const again = await ReportQueue.open(records, Date.now);
  await again.add([entry(1, { id: 'one-more', isKnown: false })]);
  expect(again.length).toBe(MAX_STRANGERS.reports + 1);
  const waiting = await all(again);
  expect(waiting.filter(({ id }) => id === 'stranger-0').map(({ seq }) => seq)).toEqual(
    Array.from({ length: perStranger - 1 }, (_, at) => at + 2),
  );
  expect(waiting.map(({ id }) => id)).toEqual(expect.arrayContaining(['device', 'one-more']));
});

it('counts a report once however often it arrives, but forwards two different ones with one number', async () => {
  await queue.add([entry(1), entry(1)]);
  await queue.add([entry(1)]);
  await queue.add([entry(1, { digest: 'f'.repeat(16) })]);
  const waiting = await queue.next(queue.round(), { maxReports: 10, maxBytes: 10_000 });
  expect(waiting.map(({ digest }) => digest[0])).toEqual(['d', 'f']);
  await queue.acknowledge({ id: 'device', epoch: 'e', seq: 1 });
  await queue.add([entry(1)]);
  expect(queue.length).toBe(0);
});

it('leaves the reports of another chain and the later ones where they are', async () => {
  await queue.add([
    entry(1),
    entry(2),
    entry(3),
    entry(1, { epoch: 'f' }),
    entry(10),
    entry(2, { id: 'other' }),
  ]);
  await queue.acknowledge({ id: 'device', epoch: 'e', seq: 2 });
  const waiting = await queue.next(queue.round(), { maxReports: 10, maxBytes: 10_000 });
  expect(waiting.map(({ id, epoch, seq }) => `${id} ${epoch} ${seq}`)).toEqual([
    'device e 3',
    'other e 2',
    'device f 1',
    'device e 10',
  ]);
});

it('stays within the size of a batch, except for a single report that is larger', async () => {
  await queue.add(entries(5));
  expect(await queue.next(queue.round(), { maxReports: 2, maxBytes: 10_000 })).toHaveLength(2);
  const [first] = await queue.next(queue.round(), { maxReports: 5, maxBytes: 1 });
  expect(first?.seq).toBe(1);
  const round = queue.round();
  round.pass(first ? [first.waiting] : []);
  const rest = await queue.next(round, { maxReports: 5, maxBytes: 10_000 });
  expect(rest.map(({ seq }) => seq)).toEqual([2, 3, 4, 5]);
});

it('keeps the last of the reports that the origin refused', async () => {
  for (const start of [0, 600]) {
    await queue.add(Array.from({ length: 600 }, (_, at) => entry(start + at + 1)));
    for (const waiting of await queue.next(queue.round(), { maxReports: 600, maxBytes: 10 ** 9 }))
      await queue.reject(waiting, 'SITECAST_REPORT_FORKED');
  }
  expect([queue.deadLetters, queue.length]).toEqual([MAX_DEAD_LETTERS, 0]);
});

it('remembers the newest refused report of a chain, also after a restart', async () => {
  await queue.add(entries(MAX_TOLD_LETTERS + 1));
  await queue.add([entry(1, { epoch: 'f' }), entry(1, { id: 'another' })]);
  for (const waiting of await queue.next(queue.round(), { maxReports: 1000, maxBytes: 10 ** 9 }))
    await queue.reject(waiting, 'SITECAST_REPORT_GAP');
  const again = await ReportQueue.open(records, Date.now);
  for (const one of [queue, again]) {
    const refused = one.refusedOf('device', 'e');
    expect(refused.map(({ seq }) => seq)).toEqual(
      Array.from({ length: MAX_TOLD_LETTERS }, (_, at) => at + 2),
    );
    expect(refused[0]).toEqual({ epoch: 'e', seq: 2, digest: 'd'.repeat(16), code: 'SITECAST_REPORT_GAP' });
    expect([one.refusedOf('device', 'f').length, one.refusedOf('nobody', 'e')]).toEqual([1, []]);
  }
});

it('sends what a damaged database still holds, and accepts again what is lost', async () => {
  await queue.add([entry(1), entry(2), entry(3)]);
  const keys: string[] = [];
  for await (const [key] of records.entries({ from: '', below: '~' })) keys.push(key);
  const [reports, index] = [
    keys.filter(key => key.startsWith('r:')),
    keys.filter(key => key.startsWith('x:')),
  ];
  // The first report lost its index, the second the report itself; the third is unreadable.
  await records.commit([
    { key: index[0] ?? '', value: undefined },
    { key: reports[1] ?? '', value: undefined },
    { key: reports[2] ?? '', value: { id: 1 } },
  ]);
  const again = await ReportQueue.open(records, Date.now);
  expect(again.length).toBe(1);
  await again.add([entry(1), entry(2), entry(3)]);
  const waiting = await again.next(again.round(), { maxReports: 10, maxBytes: 10_000 });
  expect(waiting.map(({ seq }) => seq)).toEqual([1, 2, 3]);
  expect(await again.acknowledge({ id: 'device', epoch: 'e', seq: 3 })).toBe(3);
  expect(again.length).toBe(0);
});

describe('a device with too many reports', () => {
  const flood = (seq: number, id = 'flood') =>
    entry(seq, { id, envelope: { ...envelope, payload: 'A'.repeat(8000) } });
  const floods = (count: number, id?: string) => Array.from({ length: count }, (_, at) => flood(at + 1, id));
  const max = { maxReports: 4, maxBytes: 10 ** 6 };
  const names = (batch: readonly WaitingReport[]) => batch.map(({ id, seq }) => `${id} ${seq}`);

  it('delays no other: devices with waiting reports take turns, each in order', async () => {
    await queue.add(floods(20));
    for (const id of ['a', 'b', 'c', 'd', 'e']) await queue.add(entries(2, { id }));
    const round = queue.round();
    const batches: string[][] = [];
    for (let at = 0; at < 4; at += 1) {
      const batch = await queue.next(round, max);
      batches.push(names(batch));
      round.pass(batch.map(({ waiting }) => waiting));
      // A report that arrives meanwhile gets its turn, too.
      if (at === 0) await queue.add([entry(1, { id: 'late' })]);
    }
    expect(batches).toEqual([
      ['flood 1', 'a 1', 'b 1', 'c 1'],
      ['d 1', 'e 1', 'flood 2', 'a 2'],
      ['b 2', 'c 2', 'late 1', 'd 2'],
      ['e 2', 'flood 3', 'flood 4', 'flood 5'],
    ]);
  });

  it('is left out while it is held back, and continues where it was', async () => {
    await queue.add(floods(3));
    await queue.add([entry(1)]);
    const round = queue.round();
    expect(names(await queue.next(round, max, id => id === 'flood'))).toEqual(['device 1']);
    expect(names(await queue.next(round, max, () => true))).toEqual([]);
    expect(names(await queue.next(round, max))).toEqual(['flood 1', 'device 1', 'flood 2', 'flood 3']);
  });

  it('loses its newest to others where the queue is full, and is refused', async () => {
    const small = await ReportQueue.open(records, Date.now, { reports: 20, bytes: 10 ** 6 });
    await small.add(floods(15));
    await small.add(floods(5, 'other'));
    await expect(small.add([flood(16)])).rejects.toMatchObject({ code: 'SITECAST_OUTBOX_FULL' });
    for (let seq = 1; seq <= 7; seq += 1) await small.add([entry(seq)]);
    const again = await ReportQueue.open(records, Date.now, { reports: 20, bytes: 10 ** 6 });
    const left = names(await all(again));
    const seqsOf = (id: string) =>
      left.filter(name => name.startsWith(`${id} `)).map(name => Number(name.slice(id.length + 1)));
    expect([seqsOf('flood'), seqsOf('other'), seqsOf('device')].map(seqs => seqs.length)).toEqual([8, 5, 7]);
    expect(seqsOf('flood')).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    // The dropped report wasn't sent, so it may come again.
    expect(await again.acknowledge({ id: 'other', epoch: 'e', seq: 5 })).toBe(5);
    await again.add([flood(9)]);
    expect(again.length).toBe(16);
  });

  it('is accepted up to its budget, in order; stored reports cost nothing', async () => {
    let nowMs = 0;
    const budget = new TokenBucket({ burst: 30_000, perS: 100, now: () => nowMs });
    expect((await queue.add(floods(5), budget)).map(({ seq }) => seq)).toEqual([4, 5]);
    expect((await queue.add([...floods(3), entry(9, { id: 'flood' })], budget)).length).toBe(0);
    expect((await queue.add(floods(5), budget)).map(({ seq }) => seq)).toEqual([4, 5]);
    nowMs += 60_000;
    expect((await queue.add(floods(5), budget)).map(({ seq }) => seq)).toEqual([5]);
    expect(queue.length).toBe(5);
  });

  it('that was unknown continues in its order once it is known', async () => {
    await queue.add([entry(1, { isKnown: false }), entry(2, { isKnown: false })]);
    await queue.add([entry(1, { id: 'stranger', isKnown: false })]);
    await queue.add([entry(3)]);
    expect(names(await all(queue))).toEqual(['stranger 1', 'device 1', 'device 2', 'device 3']);
    expect(await queue.acknowledge({ id: 'device', epoch: 'e', seq: 3 })).toBe(3);
    expect(queue.length).toBe(1);
  });
});
