import { MAX_DELEGATED_TARGETS } from '@sitecast/shared/trust';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { chunkPath } from '@sitecast/shared/content';
import { afterAll, afterEach, expect, it } from 'vitest';
import { type FakeOrigin, faultAt, type Misbehaviour } from '@sitecast/shared/testing/origin';
import { removeTemporaryDirectories, GatewayHarness, until } from './testing/harness.ts';

const harness = new GatewayHarness();
afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

const image = Buffer.alloc(100_000, 'a release ');

async function originWithRollout(): Promise<FakeOrigin> {
  const { origin } = await harness.originWith(image);
  return origin;
}

/** The paths that a device requests, one after the other, and some more. */
function currentPaths({ repository }: FakeOrigin): string[] {
  const roles = ['root', 'timestamp', 'snapshot', 'targets', 'rollouts'].map(role => repository.pathOf(role));
  const targets = ['targets', 'rollouts'].flatMap(role =>
    Object.entries(repository.targetsOf(role).targets).map(([name, { hashes }]) => {
      const [folder, file] = name.split('/');
      return `targets/${folder}/${hashes.sha256}.${file}`;
    }),
  );
  return [...roles, 'metadata/1.root.json', ...targets];
}

it('mirrors a repository and serves it unchanged, with the headers of the origin', async () => {
  const origin = await originWithRollout();
  await origin.publishRelease('camera', 2, image);
  const gateway = await harness.gateway(origin);
  await until(
    async () =>
      (await gateway.get('metadata/timestamp.json')).body.equals(origin.repository.bytesOf('timestamp')),
    'the newest set',
  );

  const chunks = [...origin.repository.files.keys()].filter(path => path.startsWith('chunks/'));
  const paths = [...currentPaths(origin), ...chunks];
  expect(paths.length).toBeGreaterThan(15);
  for (const path of paths) {
    const url = `${gateway.url}/${path}`;
    const expected = origin.fileAt(path);
    const whole = await fetch(url);
    const etag = whole.headers.get('etag') ?? '';
    const part = await fetch(url, { headers: { range: 'bytes=1-3', 'if-range': etag } });
    const head = await fetch(url, { method: 'HEAD' });
    expect({
      path,
      whole: [whole.status, Buffer.from(await whole.arrayBuffer())],
      cacheControl: whole.headers.get('cache-control'),
      again: (await fetch(url, { headers: { 'if-none-match': etag } })).status,
      part: [part.status, Buffer.from(await part.arrayBuffer())],
      beyond: (await fetch(url, { headers: { range: `bytes=${expected.length}-` } })).status,
      headBytes: head.headers.get('content-length'),
    }).toEqual({
      path,
      whole: [200, expected],
      cacheControl: path.endsWith('timestamp.json') ? 'no-cache' : 'public, max-age=31536000, immutable',
      again: 304,
      part: [206, expected.subarray(1, 4)],
      beyond: 416,
      headBytes: String(expected.length),
    });
  }
});

it('learns of a new release at once, answers a waiting device, and never serves an incomplete release', async () => {
  const origin = await originWithRollout();
  const gateway = await harness.gateway(origin);
  const before = await fetch(`${gateway.url}/metadata/timestamp.json`);
  const waiting = fetch(`${gateway.url}/metadata/timestamp.json`, {
    headers: { prefer: 'wait=50', 'if-none-match': before.headers.get('etag') ?? '' },
  });
  // Only the metadata of the release has arrived, so it must not be served.
  const held: (() => void)[] = [];
  origin.misbehave = path =>
    path.includes('.camera-2.json') && held.length === 0
      ? response => void held.push(() => response.end(origin.fileAt(path)))
      : undefined;
  await origin.publishRelease('camera', 2, image);
  await origin.startRollout('camera', 2);
  await until(() => held.length > 0, 'the manifest to be asked for');
  const during = await gateway.get('metadata/timestamp.json');
  expect(during.body.equals(origin.repository.bytesOf('timestamp'))).toBe(false);
  held[0]?.();
  const after = await waiting;
  expect(after.status).toBe(200);
  await until(
    async () =>
      (await gateway.get('metadata/timestamp.json')).body.equals(origin.repository.bytesOf('timestamp')),
    'the new set',
  );
  for (const path of currentPaths(origin))
    expect([path, (await gateway.get(path)).status]).toEqual([path, 200]);
  // A client that began with the previous set gets the rest of it.
  expect((await gateway.get('metadata/3.targets.json')).status).toBe(200);
});

it('answers 304 at the end of a wait without a change', async () => {
  const gateway = await harness.gateway(await originWithRollout());
  const first = await fetch(`${gateway.url}/metadata/timestamp.json`);
  const again = await fetch(`${gateway.url}/metadata/timestamp.json`, {
    headers: { prefer: 'wait=1', 'if-none-match': first.headers.get('etag') ?? '' },
  });
  expect(again.status).toBe(304);
});

it('serves after a restart while the origin is unreachable, and repairs damaged files later', async () => {
  const origin = await originWithRollout();
  const gateway = await harness.gateway(origin);
  const { data } = gateway.settings;
  await gateway.close();
  await origin.close();
  const offline = await harness.gateway(origin, { data });
  for (const path of currentPaths(origin))
    expect([path, (await offline.get(path)).status]).toEqual([path, 200]);
  await offline.close();

  const releases = join(data, 'mirror', 'targets', 'releases');
  const manifest = (await readdir(releases)).find(name => name.endsWith('.json')) ?? '';
  await writeFile(join(releases, manifest), 'damaged');
  const damaged = await harness.gateway(origin, { data }, { isReadyFirst: false });
  expect(await damaged.isReady()).toBe(false);
  expect((await damaged.get(`targets/releases/${manifest}`)).status).toBe(503);
  expect((await damaged.get('metadata/timestamp.json')).status).toBe(200);
  await origin.listen();
  await until(() => damaged.isReady(), 'the repair');
  expect((await damaged.get(`targets/releases/${manifest}`)).status).toBe(200);
  await damaged.close();

  for (const name of await readdir(join(data, 'mirror', 'metadata')))
    await writeFile(join(data, 'mirror', 'metadata', name), '{}');
  for (const name of ['timestamp.json', 'snapshot.json', 'targets.json'])
    await writeFile(join(data, 'trust', name), 'damaged');
  const again = await harness.gateway(origin, { data });
  for (const path of currentPaths(origin))
    expect([path, (await again.get(path)).status]).toEqual([path, 200]);
});

it('follows new roots and serves every one that devices may need', async () => {
  const origin = await originWithRollout();
  await origin.repository.publish('root');
  const gateway = await harness.gateway(origin);
  await origin.repository.publish('root');
  await origin.repository.publishWithSnapshot('targets');
  await until(async () => (await gateway.get('metadata/3.root.json')).status === 200, 'the newest root');
  for (const version of [1, 2, 3])
    expect((await gateway.get(`metadata/${version}.root.json`)).body).toEqual(
      origin.fileAt(`metadata/${version}.root.json`),
    );
  expect((await gateway.get('metadata/4.root.json')).status).toBe(404);
});

/** What a hostile or broken upstream may do with metadata, and whether it counts as misbehaviour. */
const misbehaviours: [string, Misbehaviour, boolean][] = [
  [
    'serves a timestamp by other keys',
    faultAt('timestamp.json', Buffer.from('{"signatures":[],"signed":{}}')),
    true,
  ],
  ['serves endless metadata', faultAt('timestamp.json', 'endless'), true],
  ['cuts bodies short', faultAt('snapshot.json', 'truncate'), false],
  ['redirects', () => 'redirect', false],
  ['hangs up', () => 'drop', false],
  ['has nothing at all', () => 'missing', false],
  ['fails', () => 'broken', false],
  ['serves a damaged target', faultAt('camera-2.json', Buffer.from('{}')), true],
];

it.each(misbehaviours)(
  'keeps what it has, or asks another upstream, when one %s',
  async (_what, misbehave, isLie) => {
    const origin = await originWithRollout();
    const gateway = await harness.gateway(origin);
    const good = (await gateway.get('metadata/timestamp.json')).body;
    origin.misbehave = misbehave;
    await origin.publishRelease('camera', 2, image);
    await origin.startRollout('camera', 2);
    await until(() => gateway.log.lines.some(({ level }) => level === 'warn'), 'the trouble to be noticed');
    expect((await gateway.get('metadata/timestamp.json')).body).toEqual(good);
    const isRefused = async () =>
      (await gateway.get('metrics')).body.toString().includes('sitecast_upstream_refused_total{');
    if (isLie) await until(isRefused, 'the lie to be counted');
    expect(await isRefused()).toBe(isLie);

    origin.misbehave = undefined;
    await until(
      async () =>
        (await gateway.get('metadata/timestamp.json')).body.equals(origin.repository.bytesOf('timestamp')),
      'the recovery',
    );
  },
);

it('asks another upstream for newer metadata, and counts older metadata as no misbehaviour', async () => {
  const origin = await originWithRollout();
  const second = await harness.origin();
  const old = origin.repository.snapshotOfFiles();
  await origin.publishRelease('camera', 2, image);
  await origin.startRollout('camera', 2);
  // The second upstream serves the same repository, as a neighbour's gateway does.
  second.frozen = origin.repository.files;
  const gateway = await harness.gateway(origin, { upstream: [second.url] });
  origin.frozen = old;
  await origin.publishRelease('camera', 3, image);
  await origin.startRollout('camera', 3);
  await until(
    async () =>
      (await gateway.get('metadata/timestamp.json')).body.equals(origin.repository.bytesOf('timestamp')),
    'the set of the second upstream',
  );
  expect((await gateway.get('metrics')).body.toString()).not.toContain('sitecast_upstream_refused_total{');
});

it('fetches the files of a delta when a device asks for them, serves and pins their patches, and keeps them', async () => {
  const origin = await originWithRollout();
  await origin.publishRelease('camera', 2, Buffer.alloc(90_000, 'another release '));
  await origin.startRollout('camera', 2);
  // The recipe is lost at the origin: the set is served without it.
  const lost = { product: 'camera', from: 1, to: 2 };
  origin.misbehave = path => (path.endsWith('.recipe') ? 'missing' : undefined);
  const patches = Buffer.from(Array.from({ length: 40_000 }, (_, at) => (at * at) % 251));
  const { ids } = await origin.repository.publishDelta(lost, Buffer.from('a recipe'), patches);
  const gateway = await harness.gateway(origin);
  const pathOf = (name: string): string => {
    const sha256 = origin.repository.targetsOf('deltas').targets[`deltas/${name}`]?.hashes.sha256;
    return `targets/deltas/${sha256}.${name}`;
  };
  const [first = Buffer.alloc(32)] = ids;
  expect((await gateway.get(`chunks/${chunkPath(first)}`)).status).toBe(404);
  expect((await gateway.get(pathOf('camera-2-from-1.caibx'))).status).toBe(200);
  expect((await gateway.get(pathOf('camera-2-from-1.recipe'))).status).toBe(503);
  for (const id of ids) expect((await gateway.get(`chunks/${chunkPath(id)}`)).status).toBe(200);
  expect(origin.count(`GET /${pathOf('camera-2-from-1.caibx')}`)).toBe(1);

  origin.misbehave = undefined;
  await origin.repository.publishDelta({ ...lost, from: 3, to: 1 }, Buffer.from('one more'), patches);
  await until(
    async () => (await gateway.get(pathOf('camera-2-from-1.recipe'))).body.toString() === 'a recipe',
    'the recipe to be asked for again',
  );
  const stored = await readdir(join(gateway.settings.data, 'mirror', 'targets', 'deltas'));
  for (const name of ['camera-2-from-1.recipe', 'camera-2-from-1.caibx'])
    expect(stored.some(file => file.endsWith(name))).toBe(true);
});

it('serves what is right in a set that lists names without a path, or too much of one role, and says once what it leaves out', async () => {
  const origin = await originWithRollout();
  const { repository } = origin;
  await repository.publishDelta(
    { product: 'camera', from: 1, to: 2 },
    Buffer.from('a recipe'),
    Buffer.alloc(9),
  );
  const gateway = await harness.gateway(origin);
  const { targets } = repository.targetsOf('deltas');
  const file = { length: 1, hashes: { sha256: 'aa'.repeat(32) } };
  const recipe = targets['deltas/camera-2-from-1.recipe']?.hashes.sha256;
  const publish = async (): Promise<void> => {
    await repository.publishWithSnapshot('deltas');
    await until(
      async () => (await gateway.get('metadata/timestamp.json')).body.equals(repository.bytesOf('timestamp')),
      'the set of the origin',
    );
  };
  const warned = () =>
    gateway.log.lines
      .filter(({ message }) => message === 'targets that a role lists are not served')
      .map(({ fields }) => fields);
  for (const name of ['deltas//x', 'deltas/./x', 'deltas/../x', 'deltas/']) targets[name] = file;
  await publish();
  await publish();
  expect((await gateway.get(`targets/deltas/${recipe}.camera-2-from-1.recipe`)).status).toBe(200);
  expect(warned()).toMatchObject([{ delegatedRole: 'deltas', count: 4, target: 'deltas//x' }]);
  // Beyond the bound of one role, that role's listing is left out, and the others' stay.
  for (let at = 0; at <= MAX_DELEGATED_TARGETS; at += 1) targets[`deltas/${at}`] = file;
  await publish();
  // 503 would be a file that is listed and lost.
  expect((await gateway.get(`targets/deltas/${file.hashes.sha256}.0`)).status).toBe(404);
  expect(warned()).toHaveLength(2);
  for (const path of currentPaths(origin)) expect((await gateway.get(path)).status).toBe(200);
});
