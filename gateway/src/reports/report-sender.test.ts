import { SitecastError } from '@sitecast/shared/errors';
import { until } from '@sitecast/shared/testing';
import { afterAll, expect, it } from 'vitest';
import { memoryLog, openTestDatabase, removeTemporaryDirectories } from '../testing/harness.ts';
import { ReportQueue, type QueuedReport } from './report-queue.ts';
import { ReportSender } from './report-sender.ts';

afterAll(removeTemporaryDirectories);

function entry(seq: number): QueuedReport {
  const envelope = { payload: 'A'.repeat(4000), payloadType: 't', signatures: [{ keyid: 'k', sig: 'AAAA' }] };
  return { id: 'device', epoch: 'e', seq, digest: String(seq).padStart(16, '0'), isKnown: true, envelope };
}

it('sends smaller batches where its requests get no answer, so that a slow line still makes progress', async () => {
  const database = await openTestDatabase();
  const queue = await ReportQueue.open(database.records('outbox'), Date.now);
  await queue.add(Array.from({ length: 15 }, (_, at) => entry(at + 1)));
  const sizes: number[] = [];
  const ask = async (_path: string, body: unknown) => {
    const { length } = JSON.stringify(body);
    sizes.push(length);
    if (length > 40_000)
      throw new SitecastError('unreachable', 'SITECAST_UPSTREAM_UNREACHABLE', 'it takes too long');
    return { status: 200, json: {} };
  };
  const stop = new AbortController();
  const sender = new ReportSender({
    queue,
    acknowledgements: { accept: () => Promise.reject(new Error('there are none')) },
    upstreams: { ask },
    limits: { bytesAtOnce: most => most, untilSent: async () => undefined },
    log: memoryLog(),
    gatherMs: 1,
  });
  const running = sender.run(stop.signal);
  await until('all of them to be sent', () => sizes.filter(size => size <= 40_000).length >= 2);
  stop.abort();
  await running;
  expect(sizes[0]).toBeGreaterThan(60_000);
  expect(sizes.slice(1, 3).every(size => size < 40_000)).toBe(true);
  await database.close();
});
