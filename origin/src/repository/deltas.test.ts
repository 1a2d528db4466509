import { cpSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { chunkIdOf } from '@sitecast/shared/content';
import { POINT_STEP } from '@sitecast/shared/testing';
import { MemoryMetadataStore, type MetadataFetcher, TufClient } from '@sitecast/shared/trust';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { publishedPath } from '../adapters/disk/layout.ts';
import { Breaker } from '../adapters/disk/testing/failing-disk.ts';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { testDelta } from '../testing/deltas.ts';
import { batchOf, imageOf } from '../testing/operator.ts';
import { openTestOrigin, type TestOriginOptions } from '../testing/origin.ts';
import { randomChunks, temporaryDirectory, temporaryOrigin } from '../testing/setup.ts';
import { listedDeltas } from './delta-listing.ts';

const disks = (path: string) => testDisk(path);
const base = imageOf(...randomChunks(3));
const target = imageOf(...base.chunks.slice(0, 2), ...randomChunks(1));
const patches = randomChunks(2, 500);
const delta = testDelta({ product: 'camera', from: 1, to: 2 }, { base, target, patches });

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
beforeEach(async () => {
  origin = await temporaryOrigin(disks);
  await origin.operator.publishOk('camera', base);
  await origin.operator.publishOk('camera', target);
});
afterEach(() => origin.remove());

const restart = (options: Partial<TestOriginOptions> = {}) =>
  openTestOrigin({ ...disks(origin.path), now: origin.clock.now, ...options });

async function stage(
  chunks: readonly Buffer[],
  staging: Pick<typeof origin, 'chunks'> = origin,
): Promise<void> {
  const batch = batchOf(chunks);
  const memory = new ArrayBuffer(batch.length);
  Buffer.from(memory).set(batch);
  const { error } = await staging.chunks.stage(memory, batch.length);
  if (error) throw error;
}

async function publish(): Promise<void> {
  await stage(patches);
  await origin.repository.changeDeltas({ added: [delta] });
}

const committedOf = ({ repository }: Pick<typeof origin, 'repository'>) => {
  if (!repository.committed) throw new Error('nothing is published');
  return repository.committed;
};

it('publishes a delta that any TUF client finds, with its patches as chunks, and takes it away again', async () => {
  await publish();
  expect(origin.repository.versions()).toMatchObject({ targets: 3, deltas: 2, rollouts: 1 });
  const fetcher: MetadataFetcher = {
    fetch: async name => readIfThere(join(origin.path, 'repository/metadata', name)),
  };
  const targetFetcher: MetadataFetcher = {
    fetch: async name => readIfThere(join(origin.path, 'repository/targets', name)),
  };
  const store = new MemoryMetadataStore();
  await TufClient.init(store, committedOf(origin).root.bytes, origin.clock.nowMs);
  const client = await TufClient.open({ store, fetcher, targetFetcher, now: origin.clock.now });
  await client.refresh();
  const found = await client.findTarget('deltas/camera-2-from-1.recipe');
  expect(found?.role).toBe('deltas');
  for (const patch of patches) readFileSync(join(origin.path, publishedPath(chunkIdOf(patch))));

  await publish();
  expect(origin.repository.versions()).toMatchObject({ deltas: 2 });
  await origin.repository.changeDeltas({ removed: [delta] });
  expect(listedDeltas(committedOf(origin))).toEqual([]);
  expect(origin.repository.versions()).toMatchObject({ deltas: 3 });
  // Clients may be in the midst of a refresh: the files go a day later.
  const files = () => readdirSync(join(origin.path, 'repository/targets/deltas'));
  await origin.repository.sweep(0);
  expect(files()).toHaveLength(2);
  origin.clock.passDays(2);
  await origin.repository.renew();
  await origin.repository.sweep(0);
  expect(files()).toEqual([]);
});

it('refuses a delta whose patches are not there, or that is of other releases', async () => {
  await expect(origin.repository.changeDeltas({ added: [delta] })).rejects.toMatchObject({
    code: 'SITECAST_DELTA_CHUNKS_MISSING',
  });
  await stage(patches);
  const wrong = [
    [{ ...delta, to: 3 }, 'SITECAST_DELTA_RELEASE_UNKNOWN'],
    [{ ...delta, product: 'sensor' }, 'SITECAST_DELTA_RELEASE_UNKNOWN'],
    [{ ...delta, from: 2, to: 1 }, 'SITECAST_DELTA_MISMATCH'],
    [{ ...delta, patchIndex: imageOf(...patches, ...patches).index }, 'SITECAST_DELTA_MISMATCH'],
    [{ ...delta, recipe: Buffer.from('no recipe') }, 'SITECAST_RECIPE_INVALID'],
  ] as const;
  for (const [added, code] of wrong)
    await expect(origin.repository.changeDeltas({ added: [added] })).rejects.toMatchObject({ code });
  expect(origin.repository.versions()).toMatchObject({ deltas: 1 });
});

it('goes on listing deltas when the timestamp is damaged, and lists none when their own metadata is', async () => {
  await publish();
  const metadata = join(origin.path, 'repository/metadata');
  writeFileSync(join(metadata, 'timestamp.json'), 'damaged');
  const next = await restart();
  expect(listedDeltas(committedOf(next))).toMatchObject([{ from: 1, to: 2 }]);
  await next.close();
  const { deltas } = next.repository.versions();
  writeFileSync(join(metadata, `${deltas}.deltas.json`), 'damaged');
  const last = await restart();
  expect(listedDeltas(committedOf(last))).toEqual([]);
  expect(last.repository.versions().deltas).toBeGreaterThan(deltas ?? 0);
  await last.close();
});

it.each([
  ['its recipe', () => recipeFile()],
  [
    'a chunk of its patches',
    () => join(origin.path, publishedPath(chunkIdOf(patches[1] ?? Buffer.alloc(0)))),
  ],
])('no longer lists a delta that has lost %s', async (_what, file) => {
  await publish();
  await origin.scrubber.survey();
  expect(listedDeltas(committedOf(origin))).toHaveLength(1);
  rmSync(file());
  await origin.scrubber.survey();
  expect(listedDeltas(committedOf(origin))).toEqual([]);
  expect(origin.repository.damage.files).toBe(0);
});

it('notes a lost recipe where the key for deltas is missing, and lists none once it is back', async () => {
  await publish();
  renameSync(join(origin.path, 'keys/deltas.pem'), join(origin.path, 'keys/away'));
  rmSync(recipeFile());
  const next = await restart();
  await next.scrubber.survey();
  expect(next.repository.damage.namedFiles()).toEqual(['deltas/camera-2-from-1.recipe']);
  await next.close();
  renameSync(join(origin.path, 'keys/away'), join(origin.path, 'keys/deltas.pem'));
  const last = await restart();
  await last.scrubber.survey();
  expect(listedDeltas(committedOf(last))).toEqual([]);
  expect(last.repository.damage.files).toBe(0);
  await last.close();
});

it('publishes a delta whole or not at all, wherever the process dies and whatever the power cut loses', async () => {
  const ends = { old: 0, new: 0 };
  const run = temporaryDirectory();
  for (let dieAt = 1; ; dieAt += POINT_STEP) {
    const path = join(run.path, `run-${dieAt}`);
    cpSync(origin.path, path, { recursive: true });
    const breaker = new Breaker(path);
    const dying = await openTestOrigin({ ...testDisk(path, breaker), now: origin.clock.now });
    breaker.arm(dieAt);
    await stage(patches, dying)
      .then(() => dying.repository.changeDeltas({ added: [delta] }))
      .catch((error: unknown) => {
        if (!breaker.hasDied) throw error;
      });
    if (!breaker.hasDied) break;
    breaker.lose((['nothing', 'contents', 'everything'] as const)[dieAt % 3] ?? 'nothing');
    const next = await openTestOrigin({ ...disks(path), now: origin.clock.now });
    await next.repository.renew();
    await next.scrubber.survey();
    const listed = listedDeltas(committedOf(next));
    ends[listed.length === 1 ? 'new' : 'old'] += 1;
    expect(next.repository.damage.files).toBe(0);
    await stage(patches, next);
    await next.repository.changeDeltas({ added: [delta] });
    expect(listedDeltas(committedOf(next))).toHaveLength(1);
    await next.scrubber.survey();
    expect(listedDeltas(committedOf(next))).toHaveLength(1);
    rmSync(path, { recursive: true });
  }
  await run.remove();
  expect(ends.old).toBeGreaterThan(8 / POINT_STEP);
  expect(ends.new).toBeGreaterThan(2 / POINT_STEP);
});

function recipeFile(): string {
  const folder = join(origin.path, 'repository/targets/deltas');
  return join(folder, readdirSync(folder).find(name => name.endsWith('.recipe')) ?? '');
}

function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}
