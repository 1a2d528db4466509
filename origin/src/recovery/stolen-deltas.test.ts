import { cpSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { chunkIdOf, chunkPath, compressFrame, HttpStore } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import { type OnlineRole, targetFileOf } from '@sitecast/shared/signing';
import { HttpFetcher, type TargetFile, targetPath } from '@sitecast/shared/trust';
import { afterEach, expect, it } from 'vitest';
import { openDataDirectory } from '../adapters/disk/data-directory.ts';
import { recoverFrom } from '../recover.ts';
import { onlineVersions, signOnlineRoles } from '../repository/online-roles.ts';
import { Repository } from '../repository/repository.ts';
import { startOrigin } from '../serve.ts';
import { hostile } from '../testing/hostile-mirror.ts';
import { imageOf, TestOperator } from '../testing/operator.ts';
import { testLog } from '../testing/origin.ts';
import { randomChunks, temporaryDirectory } from '../testing/setup.ts';
import { type Mirror, readMirror } from './mirror-copy.ts';
import { stageCopy } from './stage-copy.ts';

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const image = imageOf(...randomChunks(2));
const newImage = imageOf(...randomChunks(2));
const delta = { product: 'camera', from: 1, to: 2 };
const [recipeName, patchIndexName] = [recipeTarget(delta), patchIndexTarget(delta)];

async function start(dataDirectory: string) {
  const bounds = { stagingTtlMs: 1e9, maxStagedBytes: 1e9, maxReportBytes: 1e9, reserveBytes: 0 };
  const listen = { host: '127.0.0.1', port: 0 };
  return await startOrigin({ dataDirectory, listen, ...bounds }, { log: testLog() });
}

async function opened(dataDirectory: string, maxStagedBytes = 2 ** 30) {
  const log = testLog();
  const data = await openDataDirectory(dataDirectory, { maxStagedBytes, now: Date.now, log });
  closing.push(() => data.close());
  const repository = await Repository.open({ ...data, now: Date.now, log });
  const { committed } = repository;
  if (!committed) throw new Error('nothing is published');
  return { ...data, repository, committed, log };
}

/**
 * An origin that has published two releases, a backup from before that in `data`, and a thief: it has the origin's keys, mirrors it, and
 * has signed another list of deltas.
 * @param files what the thief gives, by target name; `chunks` besides
 */
async function robbed(
  listed: Readonly<Record<string, TargetFile>>,
  { files, chunks = [] }: { files: ReadonlyMap<string, Buffer>; chunks?: readonly Buffer[] },
) {
  const place = temporaryDirectory();
  closing.push(() => place.remove());
  const at = (name: string) => join(place.path, name);
  let origin = await start(at('seen'));
  const token = readFileSync(at('seen/admin.token'), 'utf8').trim();
  const operator = new TestOperator((path, init) => fetch(origin.url + path, init), token);
  await operator.initialise();
  await origin.close();
  cpSync(at('seen'), at('data'), { recursive: true });
  origin = await start(at('seen'));
  await operator.publishOk('camera', image);
  await operator.publishOk('camera', newImage);
  await origin.close();
  cpSync(at('seen'), at('stolen'), { recursive: true });
  origin = await start(at('seen'));
  closing.push(() => origin.close());

  const { committed, repository } = await opened(at('stolen'));
  const { root, targets } = committed;
  const forged = await signOnlineRoles({
    root,
    targets,
    previous: committed,
    deltasTargets: listed,
    floor: onlineVersions(committed),
    nowMs: Date.now(),
    signerOf: (role: OnlineRole) => repository.signerOf(role),
    keyMissing: () => new SitecastError('failed', 'SITECAST_ONLINE_KEY_MISSING', 'no key'),
  });
  const bodies = new Map<string, Buffer>([
    ['/metadata/timestamp.json', Buffer.from(forged.timestamp.bytes)],
    [`/metadata/${forged.snapshot.signed.version}.snapshot.json`, Buffer.from(forged.snapshot.bytes)],
    [`/metadata/${forged.deltas.signed.version}.deltas.json`, Buffer.from(forged.deltas.bytes)],
    ...[...files].map(
      ([name, bytes]) =>
        [`/targets/${targetPath(name, targetFileOf(bytes).hashes.sha256 ?? '')}`, bytes] as const,
    ),
    ...chunks.map(
      chunk => [`/chunks/${chunkPath(chunkIdOf(chunk))}`, Buffer.from(compressFrame(chunk))] as const,
    ),
  ]);
  const thief = await hostile(origin.url, path => bodies.get(path));
  closing.push(thief.close);
  return { at, thief };
}

const recoveredFrom = (dataDirectory: string, from: string) =>
  recoverFrom({ dataDirectory, from: [from], acceptedDay: undefined, damagedOnly: false });

const releases = [1, 2].map(counter => ({ product: 'camera', counter }));

it.each([
  ['with all keys', 'data/keys/none.pem'],
  ['with the key of the timestamp missing', 'data/keys/timestamp.pem'],
])(
  'recovers past what a stolen key of the deltas has listed, %s, and says what is left out',
  async (_, key) => {
    const noIndex = Buffer.from('no index at all');
    const file = targetFileOf(noIndex);
    const listed: Record<string, TargetFile> = {
      'deltas//x': file,
      'products/camera.json': file,
      'deltas/no-digest': { length: 1, hashes: { sha512: 'ab' } },
      'deltas/huge': { length: Number.MAX_SAFE_INTEGER, hashes: { sha256: '0'.repeat(64) } },
      [recipeName]: file,
      [patchIndexName]: file,
    };
    const files = new Map([recipeName, patchIndexName].map(name => [name, noIndex]));
    const { at, thief } = await robbed(listed, { files });
    rmSync(at(key), { force: true });
    expect(await recoveredFrom(at('data'), thief.url)).toMatchObject({
      from: thief.url,
      releases,
      omitted: [{ role: 'deltas', count: 3, first: 'deltas//x' }],
      leftOut: [{ why: 'noDelta', count: 1, first: 'deltas/huge' }],
      lost: [],
      lacking: [],
    });
    const recovered = await start(at('data'));
    closing.push(() => recovered.close());
    expect((await fetch(`${recovered.url}/metadata/timestamp.json`)).status).toBe(200);
  },
);

it('brings back what operators have signed past as many names of deltas as the staging has places', async () => {
  const junk = new Map(
    Array.from({ length: 10_000 }, (_, at) => [
      `deltas/camera-${at + 3}-from-1.recipe`,
      Buffer.from(`${at}`),
    ]),
  );
  const listed = Object.fromEntries([...junk].map(([name, bytes]) => [name, targetFileOf(bytes)]));
  const { at, thief } = await robbed(listed, { files: junk });
  expect(await recoveredFrom(at('data'), thief.url)).toMatchObject({
    releases,
    leftOut: [{ why: 'noDelta', count: 10_000, first: 'deltas/camera-3-from-1.recipe' }],
    lost: [],
    lacking: [],
  });
  expect(thief.asked.filter(path => path.startsWith('/targets/deltas/'))).toEqual([]);
}, 120_000);

it('stages the chunks of releases before those of deltas, which are left out where there is no room, and says it', async () => {
  const junk = imageOf(...randomChunks(20, 100_000));
  const files = new Map([
    [recipeName, Buffer.from('a recipe')],
    [patchIndexName, junk.index],
  ]);
  const listed = Object.fromEntries([...files].map(([name, bytes]) => [name, targetFileOf(bytes)]));
  const { at, thief } = await robbed(listed, { files, chunks: junk.chunks });
  const mirror: Mirror = {
    name: 'the thief',
    metadata: new HttpFetcher(`${thief.url}/metadata`),
    targets: new HttpFetcher(`${thief.url}/targets`),
    chunks: new HttpStore(`${thief.url}/chunks`),
  };
  const ids = Buffer.concat([...image.chunks, ...newImage.chunks].map(chunkIdOf));
  cpSync(at('data'), at('small'), { recursive: true });
  const roomy = await opened(at('data'), 500_000);
  const copy = await readMirror(mirror, roomy.committed.root);
  expect(await roomy.chunks.missing(ids)).toHaveLength(ids.length);
  expect(await stageCopy(roomy, copy, [mirror])).toEqual([{ why: 'noRoom', count: 2, first: recipeName }]);
  expect(await roomy.chunks.missing(ids)).toHaveLength(0);

  // Of what operators have signed, nothing is left out: it isn't called lost either.
  const small = await opened(at('small'), 1500);
  await expect(stageCopy(small, copy, [mirror])).rejects.toMatchObject({ code: 'SITECAST_STAGING_FULL' });
});
