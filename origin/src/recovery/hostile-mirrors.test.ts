import { cpSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { chunkIdOf } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { afterEach, expect, it } from 'vitest';
import { startOrigin } from '../serve.ts';
import { recoverFrom } from '../recover.ts';
import { hostile } from '../testing/hostile-mirror.ts';
import { imageOf, TestOperator } from '../testing/operator.ts';
import { testLog } from '../testing/origin.ts';
import { randomChunks, temporaryDirectory } from '../testing/setup.ts';
import { chunksOf } from './chunks-from-mirrors.ts';
import type { Mirror } from './mirror-copy.ts';
import { LAST_PATIENCE_MS, watchMirrors } from './watched-mirrors.ts';

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function start(dataDirectory: string) {
  const bounds = { stagingTtlMs: 1e9, maxStagedBytes: 1e9, maxReportBytes: 1e9, reserveBytes: 0 };
  const listen = { host: '127.0.0.1', port: 0 };
  return await startOrigin({ dataDirectory, listen, ...bounds }, { log: testLog() });
}

it('recovers from the next gateway what the first one withholds or forges, and names the first one', async () => {
  const place = temporaryDirectory();
  closing.push(() => place.remove());
  const at = (name: string) => join(place.path, name);
  let origin = await start(at('seen'));
  const operator = new TestOperator(
    (path, init) => fetch(origin.url + path, init),
    readFileSync(at('seen/admin.token'), 'utf8').trim(),
  );
  await operator.initialise();
  await origin.close();
  cpSync(at('seen'), at('backup'), { recursive: true });
  origin = await start(at('seen'));
  closing.push(() => origin.close());
  await operator.publishOk('camera', imageOf(...randomChunks(2)));
  const { id } = await operator.call('POST', '/api/v1/rollouts', {
    product: 'camera',
    version: '1.0.0',
    allAtOnce: true,
  });
  const recover = async (from: string[]) => {
    rmSync(at('data'), { recursive: true, force: true });
    cpSync(at('backup'), at('data'), { recursive: true });
    const dataDirectory = at('data');
    return await recoverFrom({ dataDirectory, from, acceptedDay: undefined, damagedOnly: false });
  };
  for (const [lie, code] of [
    ['', 'SITECAST_TARGET_MISSING'],
    ['x'.repeat(100), 'SITECAST_TARGET_MISMATCH'],
  ] as const) {
    const liar = await hostile(origin.url, path => (path.startsWith('/targets/rollouts/') ? lie : undefined));
    closing.push(liar.close);
    expect(await recover([liar.url, origin.url])).toMatchObject({
      from: liar.url,
      unread: [{ mirror: liar.url, code, message: expect.stringContaining('rollouts/camera.json') }],
      releases: [{ product: 'camera', counter: 1 }],
      lost: [],
      lacking: [],
      paused: [id],
    });
    await expect(recover([liar.url])).rejects.toThrow(
      expect.objectContaining({
        code: 'SITECAST_MIRRORS_UNREAD',
        message: expect.stringContaining(liar.url),
      }),
    );
  }
});

it('gives up on a gateway that accepts requests and never answers, after a minute in all', async () => {
  let [nowMs, asked] = [0, 0];
  const silentFor = (ms: number) => async (): Promise<never> => {
    asked += 1;
    await Promise.resolve();
    nowMs += ms;
    throw new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', 'nothing came');
  };
  const nothing = { fetch: async () => undefined };
  const silent: Mirror = {
    name: 'silent',
    metadata: nothing,
    targets: { fetch: silentFor(10_000) },
    chunks: { name: 'silent', has: silentFor(30_000), get: silentFor(30_000) },
  };
  const { mirrors, unread } = watchMirrors([silent], { now: () => nowMs });
  const store = chunksOf(mirrors);
  for (let at = 0; at < 100; at += 1)
    await expect(store.get(chunkIdOf(Buffer.from([at])))).rejects.toThrow(
      /nobody gave|not answer|nothing came/,
    );
  await expect(mirrors[0]?.targets.fetch('a', { maxBytes: 1 })).rejects.toThrow(/does not answer/);
  expect(nowMs).toBeLessThanOrEqual(LAST_PATIENCE_MS + 30_000);
  expect(asked).toBe(2);
  expect(unread()).toMatchObject([{ mirror: 'silent', code: 'SITECAST_STORE_UNREACHABLE' }]);
});

it('waits two seconds for a chunk of a gateway that was silent before', async () => {
  let nowMs = 0;
  const mirror: Mirror = {
    name: 'slow',
    metadata: {
      fetch: async () => {
        nowMs += 30_000;
        throw new SitecastError('unreachable', 'SITECAST_UPSTREAM_UNREACHABLE', 'nothing came');
      },
    },
    targets: { fetch: async () => Buffer.from('here') },
    chunks: {
      name: 'slow',
      has: async () => true,
      get: async (_id, { signal } = {}) => {
        // This waits two real seconds, until it is aborted.
        await new Promise<void>(resolve => signal?.addEventListener('abort', () => resolve()));
        throw signal?.reason;
      },
    },
  };
  const [watched] = watchMirrors([mirror], { now: () => nowMs }).mirrors;
  await expect(watched?.metadata.fetch('x', { maxBytes: 1 })).rejects.toThrow('nothing came');
  expect(String(await watched?.targets.fetch('x', { maxBytes: 4 }))).toBe('here');
  await expect(watched?.chunks.get(chunkIdOf(Buffer.from('x')))).rejects.toThrow(
    expect.objectContaining({ kind: 'unreachable', message: 'slow takes requests and does not answer them' }),
  );
});
