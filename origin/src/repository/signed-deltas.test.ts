import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { chunkIdOf, DirectoryStore } from '@sitecast/shared/content';
import { patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import { POINT_STEP } from '@sitecast/shared/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { publishedPath } from '../adapters/disk/layout.ts';
import { Breaker } from '../adapters/disk/testing/failing-disk.ts';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { restoreContent } from '../recovery/restore.ts';
import { testDelta } from '../testing/deltas.ts';
import { imageOf } from '../testing/operator.ts';
import { openTestOrigin, testLog } from '../testing/origin.ts';
import { randomChunks, temporaryDirectory, temporaryOrigin } from '../testing/setup.ts';
import { listedDeltas, signedDeltas } from './delta-listing.ts';
import { Repository } from './repository.ts';

// Deltas that operators sign with offline keys: top-level targets list them.

const base = imageOf(...randomChunks(3));
const target = imageOf(...base.chunks.slice(0, 2), ...randomChunks(1));
const patches = randomChunks(2, 500);
const name = { product: 'camera', from: 1, to: 2 };
const delta = testDelta(name, { base, target, patches });

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
beforeEach(async () => {
  origin = await temporaryOrigin(path => testDisk(path));
  await origin.operator.publishOk('camera', base);
});
afterEach(() => origin.remove());

/** Prepares release 2 with its delta. */
function prepare(changed: Partial<typeof delta> = {}): void {
  const { operator } = origin;
  operator.next();
  operator.addRelease('camera', target, { counter: 2 });
  const { recipe, patchIndex } = { ...delta, ...changed };
  operator.setTarget(recipeTarget({ ...name, ...changed }), recipe);
  operator.setTarget(patchIndexTarget({ ...name, ...changed }), patchIndex);
}

async function publish(): Promise<Record<string, unknown>> {
  const { operator } = origin;
  await operator.upload(target);
  await operator.expectOk(operator.uploadChunks(patches));
  await operator.uploadFiles();
  return await operator.submit();
}

const signed = ({ repository }: Pick<typeof origin, 'repository'> = origin) =>
  repository.committed ? signedDeltas(repository.committed).map(({ from, to }) => `${from} → ${to}`) : [];
const filePath = (ending: string, path = origin.path): string => {
  const folder = join(path, 'repository/targets/deltas');
  return join(folder, readdirSync(folder).find(file => file.endsWith(ending)) ?? '');
};
const patchPath = (path = origin.path) => join(path, publishedPath(chunkIdOf(patches[1] ?? Buffer.alloc(0))));

it('publishes a release with its delta, tells and records that, and takes it away when operators sign so', async () => {
  prepare();
  expect(await publish()).toMatchObject({
    httpStatus: 200,
    added: [{ counter: 2 }],
    deltas: { added: [name], removed: [] },
  });
  expect(signed()).toEqual(['1 → 2']);
  expect(readFileSync(filePath('.recipe'))).toEqual(delta.recipe);
  for (const patch of patches) readFileSync(join(origin.path, publishedPath(chunkIdOf(patch))));

  const { operator } = origin;
  operator.next();
  operator.removeTarget(recipeTarget(name));
  operator.removeTarget(patchIndexTarget(name));
  expect(await operator.submit()).toMatchObject({ httpStatus: 200, deltas: { added: [], removed: [name] } });
  expect(signed()).toEqual([]);
  const { entries } = await origin.audit.find(0, 100, { action: 'delta' });
  expect(entries).toMatchObject([
    { action: 'delta.publish', subject: 'product:camera', details: { from: 1, to: 2 } },
    { action: 'delta.withdraw', details: { from: 1, to: 2 } },
  ]);
});

it('refuses a delta that is of other releases, incomplete, or whose patches are not there', async () => {
  const wrong = [
    [{ from: 3 }, 'SITECAST_DELTA_RELEASE_UNKNOWN'],
    [{ from: 2, to: 1 }, 'SITECAST_DELTA_MISMATCH'],
    [{ patchIndex: imageOf(...patches, ...patches).index }, 'SITECAST_DELTA_MISMATCH'],
    [{ recipe: Buffer.from('no recipe') }, 'SITECAST_RECIPE_INVALID'],
  ] as const;
  const before = origin.operator.prepared();
  for (const [changed, code] of wrong) {
    origin.operator.targets = before;
    prepare(changed);
    expect(await publish()).toMatchObject({ code });
  }
  for (const half of [recipeTarget(name), patchIndexTarget(name)]) {
    origin.operator.targets = before;
    prepare();
    origin.operator.removeTarget(half);
    expect(await publish()).toMatchObject({ code: 'SITECAST_DELTA_INCOMPLETE' });
  }
  const others = testDelta(name, { base, target, patches: randomChunks(1, 500) });
  origin.operator.targets = before;
  prepare(others);
  expect(await publish()).toMatchObject({ httpStatus: 409, code: 'SITECAST_DELTA_CHUNKS_MISSING' });
  expect(origin.repository.versions()).toMatchObject({ targets: 2 });
});

it('takes 500 deltas, and no more', async () => {
  for (const [count, code] of [
    [500, 'SITECAST_FILES_MISSING'],
    [501, 'SITECAST_TOO_MANY_DELTAS'],
  ] as const) {
    origin.operator.next();
    for (let from = 2; from < 2 + count; from += 1)
      for (const of of [recipeTarget, patchIndexTarget])
        origin.operator.setTarget(of({ ...name, from, to: 1 }), Buffer.from(`a file of ${from}`));
    expect(await origin.operator.submit()).toMatchObject({ code });
    origin.operator.targets = { ...origin.operator.prepared(), version: 2 };
  }
});

it('lists no delta of its own beside it, and lets an operator of an earlier version withdraw its release', async () => {
  await origin.operator.publishOk('camera', target);
  await origin.operator.expectOk(origin.operator.uploadChunks(patches));
  await origin.repository.changeDeltas({ added: [delta] });
  const { operator } = origin;
  operator.next();
  operator.setTarget(recipeTarget(name), delta.recipe);
  operator.setTarget(patchIndexTarget(name), delta.patchIndex);
  await operator.uploadFiles();
  expect(await operator.submit()).toMatchObject({ httpStatus: 200, deltas: { added: [name] } });
  await origin.deltas.tend();
  expect(origin.repository.committed && listedDeltas(origin.repository.committed)).toEqual([]);
  expect(await operator.call('GET', '/api/v1/products/camera/deltas')).toMatchObject({
    deltas: [{ from: 1, to: 2, state: 'published', signed: true, by: 'release keys', patches: 1 }],
  });
  const asked = { to: { counter: 2 }, from: [{ counter: 1 }] };
  expect(await operator.call('POST', '/api/v1/products/camera/deltas', asked)).toMatchObject({
    deltas: [{ signed: true }],
  });
  expect(origin.deltas.list()).toEqual([]);

  operator.next();
  operator.removeTarget('releases/camera-1.json');
  operator.removeTarget('releases/camera-1.caibx');
  const product = operator.products.get('camera');
  if (!product) throw new Error('no product');
  operator.setProduct({ ...product, withdrawn: [{ counter: 1, version: '1.0.0' }] });
  await operator.uploadFiles();
  expect(await operator.submit()).toMatchObject({ httpStatus: 200, removed: [{ counter: 1 }] });
  expect(signed()).toEqual(['1 → 2']);
});

describe('a signed delta that has lost', () => {
  const status = async () => await origin.operator.call('GET', '/api/v1/repository');

  beforeEach(async () => {
    prepare();
    await publish();
    await origin.scrubber.survey();
    cpSync(join(origin.path, 'repository'), join(origin.path, 'mirrored'), { recursive: true });
  });

  it('a chunk of its patches stays listed, is named, and is whole once the patches are uploaded again', async () => {
    rmSync(patchPath());
    await origin.scrubber.survey();
    expect(signed()).toEqual(['1 → 2']);
    expect(await status()).toMatchObject({
      damage: { deltas: [{ ...name, chunks: 1 }] },
      warnings: [
        { code: 'SITECAST_CHUNKS_LOST', message: expect.stringContaining('signed delta of camera') },
      ],
    });
    await origin.operator.expectOk(origin.operator.uploadChunks(patches));
    expect(await origin.operator.call('POST', '/api/v1/repairs')).toMatchObject({ chunks: 1 });
    expect(await status()).toMatchObject({ damage: { releases: [], deltas: [], files: [] }, warnings: [] });
  });

  it('its recipe stays listed, is named with what to do, and comes back with the draft’s file', async () => {
    rmSync(filePath('.recipe'));
    await origin.scrubber.survey();
    expect(signed()).toEqual(['1 → 2']);
    expect(await status()).toMatchObject({
      damage: { files: [recipeTarget(name)] },
      warnings: [{ message: expect.stringContaining('submit the draft that brought it') }],
    });
    await origin.operator.expectOk(origin.operator.uploadFile(delta.recipe));
    expect(await origin.operator.call('POST', '/api/v1/repairs')).toMatchObject({
      files: [recipeTarget(name)],
    });
    expect(await status()).toMatchObject({ damage: { files: [] }, warnings: [] });
  });

  it('anything gets it back from a gateway', async () => {
    rmSync(patchPath());
    writeFileSync(filePath('.caibx'), 'damaged');
    const { now } = origin.clock;
    const log = testLog();
    const data = await testDisk(origin.path).openData({ maxStagedBytes: 2 ** 30, now, log });
    const repository = await Repository.open({ ...data, now, log });
    const at = (folder: string) => join(origin.path, 'mirrored', folder);
    const below = (folder: string) => ({
      fetch: async (path: string) => readFileSync(join(at(folder), path)),
    });
    const mirror = {
      name: 'mirror',
      metadata: below('metadata'),
      targets: below('targets'),
      chunks: await DirectoryStore.open(at('chunks')),
    };
    expect(await restoreContent({ ...data, repository, log }, [mirror])).toMatchObject({
      files: [patchIndexTarget(name)],
      chunks: 1,
      lost: { releases: [], deltas: [], files: [] },
    });
    readFileSync(patchPath());
  });
});

it('publishes release and delta whole or not at all, wherever the process dies and whatever the power cut loses', async () => {
  prepare();
  const { operator } = origin;
  await operator.upload(target);
  await operator.expectOk(operator.uploadChunks(patches));
  await operator.uploadFiles();
  const targets = Buffer.from(await operator.signedTargets());
  const ends = { old: 0, new: 0 };
  const run = temporaryDirectory();
  for (let dieAt = 1; ; dieAt += 3 * POINT_STEP) {
    const path = join(run.path, `run-${dieAt}`);
    cpSync(origin.path, path, { recursive: true });
    const breaker = new Breaker(path);
    const dying = await openTestOrigin({ ...testDisk(path, breaker), now: origin.clock.now });
    breaker.arm(dieAt);
    await dying.repository.submit({ targets }).catch((error: unknown) => {
      if (!breaker.hasDied) throw error;
    });
    if (!breaker.hasDied) break;
    breaker.lose((['nothing', 'contents', 'everything'] as const)[dieAt % 3] ?? 'nothing');
    const next = await openTestOrigin({ ...testDisk(path), now: origin.clock.now });
    await next.scrubber.survey();
    const isNew = next.repository.versions().targets === 3;
    ends[isNew ? 'new' : 'old'] += 1;
    expect(signed(next)).toEqual(isNew ? ['1 → 2'] : []);
    expect(next.repository.damage.files + next.repository.damage.chunks).toBe(0);
    operator.connect((path, init) => next.app.request(path, init), next.adminToken);
    await operator.upload(target);
    await operator.expectOk(operator.uploadChunks(patches));
    await operator.uploadFiles();
    await next.repository.submit({ targets });
    await next.scrubber.survey();
    expect(signed(next)).toEqual(['1 → 2']);
    expect(next.repository.damage.files + next.repository.damage.chunks).toBe(0);
    readFileSync(filePath('.recipe', path));
    readFileSync(patchPath(path));
    await next.close();
    rmSync(path, { recursive: true });
  }
  await run.remove();
  expect(ends.old).toBeGreaterThan(6 / POINT_STEP);
  expect(ends.new).toBeGreaterThan(0);
});
