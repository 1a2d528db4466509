import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { HttpFetcher } from '../trust/index.ts';
import { type RepositorySource, withFilesInTime, withinTime } from './newest-sources.ts';

const endings: (() => void)[] = [];
afterEach(() => endings.splice(0).forEach(end => end()));

/** Sends one byte every 20 ms, so that no silence and no single file is too long. */
async function dripping(fileBytes: number): Promise<RepositorySource> {
  const drip = async (response: ServerResponse): Promise<void> => {
    response.writeHead(200);
    for (let at = 0; at < fileBytes && !response.destroyed; at += 1) {
      response.write('x');
      await sleep(20);
    }
    response.end();
  };
  const server = createServer((_, response) => void drip(response));
  endings.push(() => server.close().closeAllConnections());
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const at = server.address();
  const url = `http://127.0.0.1:${typeof at === 'object' ? at?.port : ''}`;
  const files = new HttpFetcher(url);
  return { url, metadata: files, targets: files };
}

const LIMITS = { maxBytes: 1000 };
const late = { kind: 'unreachable', code: 'SITECAST_UPSTREAM_UNREACHABLE' };

it('bounds the time of all metadata of a source together, not that of its targets', async () => {
  const source = withinTime(await dripping(5), 400);
  const fetchAll = async (): Promise<void> => {
    for (let file = 0; file < 50; file += 1) await source.metadata.fetch(`${file}.root.json`, LIMITS);
  };
  await expect(fetchAll()).rejects.toMatchObject(late);
  await expect(source.metadata.fetch('timestamp.json', LIMITS)).rejects.toMatchObject(late);
  expect(await source.targets.fetch('a', LIMITS)).toHaveLength(5);
});

it('ends each target file that drips past the time for its length, and lets metadata be', async () => {
  const source = withFilesInTime(await dripping(50), lengthBytes => (lengthBytes === 20_000 ? 100 : 60_000));
  const fetched = source.targets.fetch('a', { maxBytes: 20_000 });
  await expect(fetched).rejects.toMatchObject(late);
  expect(await source.targets.fetch('a', LIMITS)).toHaveLength(50);
  expect(await source.metadata.fetch('timestamp.json', { maxBytes: 20_000 })).toHaveLength(50);
});

it('ends a file that is under way when the time is over, and passes the signal of its caller on', async () => {
  const source = await dripping(10_000);
  await expect(
    withinTime(source, 100).metadata.fetch('1.root.json', { maxBytes: 20_000 }),
  ).rejects.toMatchObject(late);
  const reason = new Error('stopped');
  await expect(
    withinTime(source, 60_000).metadata.fetch('1.root.json', {
      maxBytes: 20_000,
      signal: AbortSignal.abort(reason),
    }),
  ).rejects.toBe(reason);
});
