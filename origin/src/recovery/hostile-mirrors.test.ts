import { cpSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { chunkIdOf } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import { type OnlineRole, targetFileOf } from '@sitecast/shared/signing';
import { type TargetFile, targetPath } from '@sitecast/shared/trust';
import { afterEach, expect, it } from 'vitest';
import { openDataDirectory } from '../adapters/disk/data-directory.ts';
import { startOrigin } from '../serve.ts';
import { recoverFrom } from '../recover.ts';
import { onlineVersions, signOnlineRoles } from '../repository/online-roles.ts';
import { Repository } from '../repository/repository.ts';
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

/** Forwards everything to an honest gateway, except what it forges. */
async function hostile(honest: string, lie: (path: string) => string | undefined): Promise<string> {
  const server: Server = createServer((request, response) => {
    const { url = '' } = request;
    const told = lie(url);
    if (told !== undefined) {
      response.writeHead(told === '' ? 404 : 200).end(told);
      return;
    }
    void fetch(honest + url).then(async answer => {
      const body = Buffer.from(await answer.arrayBuffer());
      response.writeHead(answer.status).end(body);
    });
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => server.close());
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return `http://127.0.0.1:${address.port}`;
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
    expect(await recover([liar, origin.url])).toMatchObject({
      from: liar,
      unread: [{ mirror: liar, code, message: expect.stringContaining('rollouts/camera.json') }],
      releases: [{ product: 'camera', counter: 1 }],
      lost: [],
      lacking: [],
      paused: [id],
    });
    await expect(recover([liar])).rejects.toThrow(
      expect.objectContaining({ code: 'SITECAST_MIRRORS_UNREAD', message: expect.stringContaining(liar) }),
    );
  }
});

it.each([
  ['with all keys', 'data/keys/none.pem'],
  ['with the key of the timestamp missing', 'data/keys/timestamp.pem'],
])(
  'recovers past what a stolen key of the deltas has listed, %s, and says what is left out',
  async (_, key) => {
    const place = temporaryDirectory();
    closing.push(() => place.remove());
    const at = (name: string) => join(place.path, name);
    let origin = await start(at('seen'));
    const token = readFileSync(at('seen/admin.token'), 'utf8').trim();
    const operator = new TestOperator((path, init) => fetch(origin.url + path, init), token);
    await operator.initialise();
    await origin.close();
    cpSync(at('seen'), at('data'), { recursive: true });
    rmSync(at(key), { force: true });
    origin = await start(at('seen'));
    await operator.publishOk('camera', imageOf(...randomChunks(2)));
    await origin.close();
    cpSync(at('seen'), at('stolen'), { recursive: true });
    origin = await start(at('seen'));
    closing.push(() => origin.close());

    const noIndex = Buffer.from('no index at all');
    const delta = { product: 'camera', from: 1, to: 2 };
    const file = targetFileOf(noIndex);
    const deltasTargets: Record<string, TargetFile> = {
      'deltas//x': file,
      'products/camera.json': file,
      'deltas/no-digest': { length: 1, hashes: { sha512: 'ab' } },
      'deltas/huge': { length: Number.MAX_SAFE_INTEGER, hashes: { sha256: '0'.repeat(64) } },
      [recipeTarget(delta)]: file,
      [patchIndexTarget(delta)]: file,
    };
    const { committed, signerOf } = await opened(at('stolen'));
    const { root, targets } = committed;
    const floor = onlineVersions(committed);
    const keyMissing = () => new SitecastError('failed', 'SITECAST_ONLINE_KEY_MISSING', 'no key');
    const given = { root, targets, previous: committed, deltasTargets, floor, nowMs: Date.now() };
    const forged = await signOnlineRoles({ ...given, signerOf, keyMissing });
    const bodies = new Map([
      ['/metadata/timestamp.json', forged.timestamp.bytes],
      [`/metadata/${forged.snapshot.signed.version}.snapshot.json`, forged.snapshot.bytes],
      [`/metadata/${forged.deltas.signed.version}.deltas.json`, forged.deltas.bytes],
      ...[recipeTarget(delta), patchIndexTarget(delta)].map(
        name => [`/targets/${targetPath(name, file.hashes.sha256)}`, noIndex] as const,
      ),
    ]);
    const thief = await hostile(origin.url, path => bodies.get(path)?.toString());
    const asked = { dataDirectory: at('data'), from: [thief], acceptedDay: undefined, damagedOnly: false };
    expect(await recoverFrom(asked)).toMatchObject({
      from: thief,
      releases: [{ product: 'camera', counter: 1 }],
      omitted: [{ role: 'deltas', count: 3, first: 'deltas//x' }],
      lost: [],
      lacking: [],
    });
    const recovered = await start(at('data'));
    closing.push(() => recovered.close());
    expect((await fetch(`${recovered.url}/metadata/timestamp.json`)).status).toBe(200);
  },
);

/** What a thief of the keys has: a copy of the data directory. */
async function opened(dataDirectory: string) {
  const log = testLog();
  const data = await openDataDirectory(dataDirectory, { maxStagedBytes: 2 ** 30, now: Date.now, log });
  closing.push(() => data.close());
  const repository = await Repository.open({ ...data, now: Date.now, log });
  const { committed } = repository;
  if (!committed) throw new Error('nothing is published');
  return { committed, signerOf: (role: OnlineRole) => repository.signerOf(role) };
}

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
