import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { chunkIdOf, DirectoryStore } from '@sitecast/shared/content';
import { indexTarget, manifestTarget } from '@sitecast/shared/release';
import { nextVersion } from '@sitecast/shared/signing';
import type { MetadataFetcher } from '@sitecast/shared/trust';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { publishedPath } from '../adapters/disk/layout.ts';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { startOrigin } from '../serve.ts';
import { main } from '../main.ts';
import { Repository } from '../repository/repository.ts';
import { imageOf, TestOperator } from '../testing/operator.ts';
import { testLog } from '../testing/origin.ts';
import { randomChunks, temporaryOrigin } from '../testing/setup.ts';
import type { Mirror } from './mirror-copy.ts';
import { restoreContent, restoreMetadata } from './restore.ts';

const disks = (path: string) => testDisk(path);

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
const image = imageOf(...randomChunks(3));
beforeEach(async () => {
  origin = await temporaryOrigin(disks);
  const { operator, clock } = origin;
  await operator.publishOk('camera', image);
  const body = JSON.stringify({ product: 'camera', version: '1.0.0', allAtOnce: true });
  await operator.json('/api/v1/rollouts', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body,
  });
  for (let roots = 0; roots < 3; roots += 1) {
    if (!operator.root) throw new Error();
    operator.root = nextVersion(operator.root, clock.nowMs);
    const { httpStatus } = await operator.submit({ root: true, targets: false });
    if (httpStatus !== 200) throw new Error('the root was refused');
  }
  cpSync(at('repository'), at('mirrored'), { recursive: true });
});
afterEach(() => origin.remove());

const at = (path: string) => join(origin.path, path);

/** A gateway's files, as it serves them. */
async function mirror(): Promise<Mirror> {
  const below = (folder: string): MetadataFetcher => ({
    fetch: async path => {
      const file = at(`mirrored/${folder}/${path}`);
      return existsSync(file) ? readFileSync(file) : undefined;
    },
  });
  return {
    name: 'mirror',
    metadata: below('metadata'),
    targets: below('targets'),
    chunks: await DirectoryStore.open(at('mirrored/chunks')),
  };
}

/** Damages files together with their second copies. */
function damage(...paths: string[]): void {
  for (const name of readdirSync(at('spare'))) rmSync(at(`spare/${name}`));
  for (const [number, path] of paths.entries()) {
    if (number % 2 === 0) writeFileSync(at(`repository/${path}`), 'damaged');
    else rmSync(at(`repository/${path}`));
  }
}

async function restore() {
  const mirrors = [await mirror()];
  const { now } = origin.clock;
  const log = testLog();
  const data = await testDisk(origin.path).openData({ maxStagedBytes: 2 ** 30, now, log });
  const metadata = await restoreMetadata(data.published, mirrors);
  const repository = await Repository.open({ ...data, now, log });
  return { metadata, ...(await restoreContent({ ...data, repository, log }, mirrors)) };
}

/** All files of the repository except the timestamp, which may be signed again. */
const contents = (folder: string): Map<string, string> =>
  new Map(
    readdirSync(at(folder), { recursive: true, withFileTypes: true })
      .filter(entry => entry.isFile() && entry.name !== 'timestamp.json')
      .map(({ parentPath, name }) => [
        join(parentPath, name).slice(at(folder).length),
        readFileSync(join(parentPath, name), 'base64'),
      ]),
  );

it('restores the exact metadata, target files and chunks', async () => {
  const names = readdirSync(at('repository/metadata'));
  const metadata = ['1.root.json', '3.root.json', '2.targets.json', '2.rollouts.json', '1.deltas.json'];
  expect(names).toEqual(expect.arrayContaining(metadata));
  const [rollouts = ''] = readdirSync(at('repository/targets/rollouts'));
  const releases = readdirSync(at('repository/targets/releases'));
  const chunks = image.chunks
    .slice(1)
    .map(chunk => publishedPath(chunkIdOf(chunk)).replace('repository/', ''));
  damage(...metadata.map(name => `metadata/${name}`), `targets/rollouts/${rollouts}`);
  damage(...releases.map(name => `targets/releases/${name}`), ...chunks);
  const restored = await restore();
  expect(restored).toMatchObject({
    metadata: expect.arrayContaining(metadata),
    files: expect.arrayContaining([
      manifestTarget('camera', 1),
      indexTarget('camera', 1),
      'rollouts/camera.json',
    ]),
    chunks: 2,
    lost: { releases: [], files: [] },
  });
  expect(contents('repository')).toEqual(contents('mirrored'));
});

it('restores the newest roots, too, one after the other', async () => {
  damage('metadata/3.root.json', 'metadata/4.root.json');
  expect((await restore()).metadata).toEqual(['3.root.json', '4.root.json']);
  expect(contents('repository')).toEqual(contents('mirrored'));
});

it('accepts no file that is not exactly right, and names those that no gateway has', async () => {
  const [manifest = ''] = readdirSync(at('repository/targets/releases')).filter(name =>
    name.endsWith('.json'),
  );
  const lost = publishedPath(chunkIdOf(image.chunks[0] ?? Buffer.alloc(0))).replace('repository/', '');
  damage(`targets/releases/${manifest}`, lost, 'metadata/2.root.json');
  writeFileSync(at(`mirrored/targets/releases/${manifest}`), 'a lie');
  writeFileSync(at(`mirrored/${lost}`), 'a lie');
  // A root that its own keys have signed, but of another repository.
  const other = await temporaryOrigin(disks);
  const { operator } = other;
  if (!operator.root) throw new Error();
  operator.root = nextVersion(operator.root, origin.clock.nowMs);
  writeFileSync(at('mirrored/metadata/2.root.json'), await operator.signedRoot());
  await other.remove();
  expect(await restore()).toMatchObject({
    metadata: [],
    files: [],
    chunks: 0,
    lost: {
      files: [manifestTarget('camera', 1), '2.root.json'],
      releases: [{ product: 'camera', counter: 1, chunks: 1 }],
    },
  });
});

it('refuses a repository whose newest targets no gateway has', async () => {
  damage('metadata/2.targets.json');
  mkdirSync(at('nothing'));
  rmSync(at('mirrored/metadata/2.targets.json'));
  await expect(restore()).rejects.toMatchObject({ code: 'SITECAST_REPOSITORY_DAMAGED' });
});

it('is a command of its own: it pauses nothing, and fails where something stays lost', async () => {
  const settings = (name: string) => ({
    dataDirectory: at(name),
    listen: { host: '127.0.0.1', port: 0 },
    stagingTtlMs: 1e9,
    maxStagedBytes: 1e9,
    maxReportBytes: 2 ** 30,
    reserveBytes: 0,
  });
  const first = await startOrigin(settings('data'), { log: testLog() });
  const token = readFileSync(at('data/admin.token'), 'utf8').trim();
  const operator = new TestOperator((path, init) => fetch(first.url + path, init), token);
  await operator.initialise();
  await operator.publishOk('camera', image);
  await first.close();
  cpSync(at('data'), at('other'), { recursive: true });
  // Another origin serves the same as a gateway.
  const gateway = await startOrigin(settings('other'), { log: testLog() });
  const [manifest = ''] = readdirSync(at('data/repository/targets/releases')).filter(name =>
    name.endsWith('.json'),
  );
  writeFileSync(at('data/repository/metadata/2.targets.json'), 'damaged');
  writeFileSync(at(`data/repository/targets/releases/${manifest}`), 'damaged');
  for (const name of readdirSync(at('data/spare'))) rmSync(at(`data/spare/${name}`));
  await expect(startOrigin(settings('data'), { log: testLog() })).rejects.toThrow(
    '2.targets.json was altered',
  );

  const printed: string[] = [];
  const write = vi.spyOn(process.stdout, 'write').mockImplementation(text => printed.push(String(text)) > 0);
  const errors: string[] = [];
  const silent = vi.spyOn(process.stderr, 'write').mockImplementation(text => errors.push(String(text)) > 0);
  const command = ['recover', '--data', at('data'), '--damaged-only', '--json'];
  const codes = [await main([...command, '--from', gateway.url])];
  rmSync(at(`data/repository/targets/releases/${manifest}`));
  for (const name of readdirSync(at('data/spare'))) rmSync(at(`data/spare/${name}`));
  codes.push(await main(command));
  await gateway.close();
  // The file may exist, because no gateway could be asked.
  codes.push(await main([...command, '--from', gateway.url]));
  writeFileSync(at('data/repository/metadata/2.targets.json'), 'damaged');
  codes.push(await main([...command, '--from', gateway.url]));
  write.mockRestore();
  silent.mockRestore();
  expect(codes).toEqual([0, 1, 4, 4]);
  const said = errors.join('');
  expect(said).toContain('lost: releases/camera-1.json; and no gateway was asked');
  expect(said).toContain(`lost: releases/camera-1.json; not all gateways could be asked: ${gateway.url}: `);
  expect(said).toMatch(
    /SITECAST_MIRRORS_UNREAD.*2\.targets\.json was altered; and gateways could not be asked for it: /,
  );
  expect(printed.map(text => JSON.parse(text))).toMatchObject([
    { metadata: ['2.targets.json'], files: ['releases/camera-1.json'], lost: { files: [], releases: [] } },
    { metadata: [], files: [], lost: { files: ['releases/camera-1.json'] }, asked: [], unread: [] },
    {
      lost: { files: ['releases/camera-1.json'] },
      unread: [{ mirror: gateway.url, code: 'SITECAST_UPSTREAM_UNREACHABLE' }],
    },
  ]);
});
