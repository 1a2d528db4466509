import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import { HttpFetcher, type FoundTarget, targetPath } from '@sitecast/shared/trust';
import { targetFileOf } from '@sitecast/shared/signing';
import { afterAll, afterEach, expect, it } from 'vitest';
import { DiskMirror } from '../adapters/disk-mirror.ts';
import { removeTemporaryDirectories, temporaryDirectory } from '../testing/harness.ts';
import { Follower } from './follower.ts';
import { type News, type Source, Sources } from './sources.ts';
import { TargetFiles } from './target-files.ts';

const endings: (() => unknown)[] = [];
afterEach(() => endings.splice(0).forEach(end => end()));
afterAll(removeTemporaryDirectories);

const log = { debug() {}, info() {}, warn() {}, error() {} };
const bytes = Buffer.alloc(4000, 'a file ');
const file = targetFileOf(bytes);
const target: FoundTarget = { role: 'targets', name: 'releases/camera-1.caibx', file };
const path = targetPath(target.name, file.hashes.sha256 ?? '');

async function sourceOf(answer: RequestListener): Promise<Source & { asked: string[] }> {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(String(request.url));
    answer(request, response);
  });
  endings.push(() => server.close().closeAllConnections());
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const at = server.address();
  const url = `http://127.0.0.1:${typeof at === 'object' ? at?.port : ''}`;
  const files = new HttpFetcher(url);
  return { url, metadata: files, targets: files, asked };
}

/** Sends the first byte, and no other. */
const dripping = () => sourceOf((_, response) => void response.writeHead(200).write('a'));
const honest = () => sourceOf((_, response) => void response.end(bytes));

/** @param nextAfterMs how long a source is waited for alone */
async function filesFrom(sources: Sources, nextAfterMs: number): Promise<TargetFiles> {
  const store = await DiskMirror.open(await temporaryDirectory());
  const deps = { sources, origin: [], onRefused: () => undefined, nextAfterMs: () => nextAfterMs };
  return new TargetFiles({ store, log, ...deps });
}

const fleet = (neighbours: readonly Source[]) => ({
  ids: () => neighbours.map(({ url }) => url),
  source: (id: string) => {
    const found = neighbours.find(({ url }) => url === id);
    if (!found) throw new Error(`no neighbour ${id}`);
    return found;
  },
});
const HOUR_MS = 3_600_000;

it('asks an upstream that answers for a file before the neighbour that announced it', async () => {
  const [origin, neighbour] = [await honest(), await dripping()];
  const sources = new Sources([origin], fleet([neighbour]));
  sources.follow(neighbour);
  expect(await (await filesFrom(sources, HOUR_MS)).get(target)).toEqual(bytes);
  expect([origin.asked, neighbour.asked]).toEqual([[`/${path}`], []]);
});

it('has a file from the next source where a neighbour drips it, though no upstream answers', async () => {
  const [hostile, neighbour] = [await dripping(), await honest()];
  const sources = new Sources([], fleet([hostile, neighbour]));
  sources.follow(hostile);
  expect(await (await filesFrom(sources, 50)).get(target)).toEqual(bytes);
  expect(hostile.asked).toEqual([`/${path}`]);
  // It rests.
  expect(sources.inOrder().map(({ url }) => url)).toEqual([neighbour.url]);
});

it('waits no longer for the files of an interrupted round, and loses nothing of what is half here', async () => {
  const slow: (() => void)[] = [];
  const origin = await sourceOf((_, response) => {
    response.writeHead(200).write(bytes.subarray(0, 10));
    slow.push(() => response.end(bytes.subarray(10)));
  });
  const files = await filesFrom(new Sources([origin], undefined), HOUR_MS);
  const interrupt = new AbortController();
  const ensured = files.ensure([target], interrupt.signal);
  while (slow.length === 0) await new Promise(resolve => setImmediate(resolve));
  interrupt.abort(new Error('there is news'));
  await expect(ensured).rejects.toThrow('there is news');
  const again = files.ensure([target], new AbortController().signal);
  await new Promise(resolve => setImmediate(resolve));
  slow[0]?.();
  await again;
  expect(origin.asked).toHaveLength(1);
});

it('interrupts a round for a newer version alone', async () => {
  const rounds: { version: number | undefined; interrupt: AbortSignal | undefined }[] = [];
  const round = async (signal: AbortSignal, news?: News, interrupt?: AbortSignal): Promise<never> => {
    rounds.push({ version: news?.version, interrupt });
    await new Promise<void>(resolve => {
      for (const end of [signal, interrupt]) end?.addEventListener('abort', () => resolve());
    });
    throw interrupt?.reason ?? signal.reason;
  };
  const follower = new Follower({
    synchroniser: { round },
    upstreams: [],
    now: Date.now,
    log,
  });
  const news = (version: number | undefined): News => ({ from: 'x', version, files: new Map() });
  const until = async (count: number): Promise<void> => {
    while (rounds.length < count) await new Promise(resolve => setImmediate(resolve));
  };
  follower.wake(news(5));
  const stop = new AbortController();
  const running = follower.run(stop.signal);
  await until(1);
  for (const version of [undefined, 5]) follower.wake(news(version));
  expect(rounds[0]?.interrupt?.aborted).toBe(false);
  follower.wake(news(6));
  await until(2);
  expect(rounds.map(({ version }) => version)).toEqual([5, 6]);
  stop.abort(new Error('the end'));
  await running;
});
