import { ChunkIndex, chunkIdOf, decompressExactly } from '@sitecast/shared/content';
import { applyPatch, decodeRecipe } from '@sitecast/shared/delta';
import { POINT_STEP, until } from '@sitecast/shared/testing';
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { publishedPath } from '../adapters/disk/layout.ts';
import { Breaker } from '../adapters/disk/testing/failing-disk.ts';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { listedDeltas } from '../repository/delta-listing.ts';
import { testMaker } from '../testing/deltas.ts';
import type { TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { imageOf, type TestImage } from '../testing/operator.ts';
import { openTestOrigin } from '../testing/origin.ts';
import { randomChunks } from '../testing/setup.ts';
import type { WindowPlace } from './maker-port.ts';

let harness: FleetHarness;
let second: TestImage;
/** Called before the maker makes a window. */
let onWindow: (place: WindowPlace) => Promise<void>;
let skipped: number[];
let freeBytes: number;
/** Which encoders the maker was given, for each delta. */
let encoders: (readonly string[] | undefined)[];

beforeEach(async () => {
  onWindow = async () => undefined;
  skipped = [];
  freeBytes = 2 ** 40;
  encoders = [];
  harness = await FleetHarness.open(path => ({
    ...testDisk(path),
    makesDeltas: true,
    room: { reserveBytes: 1, freeBytes: async () => freeBytes, path },
    deltaMaker: testMaker({
      onWindow: place => onWindow(place),
      onSkipped: ({ firstChunk }) => skipped.push(firstChunk),
      onRequest: request => encoders.push(request.encoders),
    }),
  }));
  second = imageOf(...harness.image.chunks.slice(0, 1), ...randomChunks(3));
  await harness.operator.publishOk('camera', second);
});
afterEach(async () => {
  await harness.origin.deltas.stop();
  await harness.close();
});

const deltas = () => harness.call('GET', '/api/v1/products/camera/deltas');
const listed = () => {
  const { committed } = harness.origin.repository;
  return committed ? listedDeltas(committed).map(({ from, to }) => `${from} → ${to}`) : [];
};
const stateOf = (from: number, to: number) =>
  harness.origin.deltas.job({ product: 'camera', from, to })?.state;

/** Adds a device with the release that it runs and what it can do with deltas. */
async function running(counter: number, site = 'north', ability = 'recipe-1'): Promise<TestMember> {
  const device = await harness.device(site);
  const release = { counter, version: `${counter}.0.0` };
  const inventory = { product: 'camera', ...(ability && { deltas: ability }) };
  await device.report({ state: 'idle', booted: { slot: 'A', release }, inventory });
  return device;
}

it('makes deltas from the releases that devices run when a rollout starts, and tells what they cost', async () => {
  await running(1);
  await running(1, 'south');
  // A delta from a release that isn't listed can't be made.
  await running(7);
  await harness.device('north');
  const started = await harness.startRollout({ counter: 2, allowDowngrade: true });
  expect(started).toMatchObject({ httpStatus: 201 });
  const { origin } = harness;
  const [file] = await orders();
  expect(Date.parse(String(file?.deltasBy)) - harness.clock.nowMs).toBe(2 * 3_600_000);
  const estimated = await harness.call('GET', '/api/v1/products/camera/deltas?to=2.0.0');
  expect(estimated).toMatchObject({
    cost: {
      from: [
        { from: { counter: 1, version: '1.0.0' }, devices: 2, by: 'chunks', isEstimate: true },
        { from: { counter: 7 }, devices: 1, by: 'chunks', isEstimate: true },
      ],
      sites: { count: 2, isEstimate: true },
      unknown: 1,
    },
  });

  origin.deltas.start();
  await origin.deltas.tend();
  await until('the delta', () => stateOf(1, 2) === 'published');
  expect(listed()).toEqual(['1 → 2']);
  const made = await harness.call('GET', '/api/v1/products/camera/deltas?to=2.0.0');
  expect(made).toMatchObject({
    deltas: [{ from: 1, to: 2, state: 'published', by: 'origin', patches: 3, doneBasisPoints: 10_000 }],
    cost: { from: [{ by: 'delta', devices: 2, isEstimate: false }, { isEstimate: true }] },
  });
  expectPatchesToMake(second);
  // A finished delta needs no windows any more.
  expect(readdirSync(join(harness.path, 'deltas'))).toEqual(['jobs.json']);
  // Devices stop waiting as soon as no delta is to come.
  await until('the order', async () => (await orders())[0]?.deltasBy === undefined);
  expect(await orders()).toMatchObject([{ id: file?.id, state: 'active', attempt: 1 }]);
  await origin.deltas.tend();
  expect(origin.repository.versions()).toMatchObject({ deltas: 2 });
});

it("lets no device wait for a delta that was made beforehand, doesn't pay, failed, or could be used by no device", async () => {
  const { origin } = harness;
  await running(1);
  origin.deltas.start();
  await origin.deltas.request([{ product: 'camera', from: 1, to: 2 }], 'test');
  await until('the delta', () => stateOf(1, 2) === 'published');
  const started = await harness.startRollout({ counter: 2 });
  expect(await orders()).toMatchObject([{ state: 'active' }]);
  expect((await orders())[0]).not.toHaveProperty('deltasBy');
  await harness.call('POST', `/api/v1/rollouts/${String(started.id)}/complete`, { acknowledge: true });

  // No patch to the third release is smaller than its chunks. Devices wait until that is known.
  await harness.operator.publishOk('camera', imageOf(...second.chunks.slice(0, 2)));
  await harness.startRollout({ counter: 3, allowDowngrade: true });
  expect((await orders())[1]).toHaveProperty('deltasBy');
  await origin.deltas.tend();
  await until('the end', () => ['published', 'notWorth'].includes(stateOf(1, 3) ?? ''));
  await until('the order', async () => (await orders())[1]?.deltasBy === undefined);
  expect(origin.deltas.isAwaited('camera', 3, harness.clock.nowMs)).toBe(false);
});

it('makes no delta that no device could use, and lets no device wait for one', async () => {
  const { origin } = harness;
  // An earlier agent, one that takes only signed recipes, and one of a later version.
  for (const ability of ['', 'recipe-1 signed-only zstd-1.5.5-wasm', 'recipe-9'])
    await running(1, 'north', ability);
  await harness.startRollout({ counter: 2 });
  expect((await orders())[0]).not.toHaveProperty('deltasBy');
  origin.deltas.start();
  await origin.deltas.tend();
  expect(origin.deltas.list()).toEqual([]);
  await running(1);
  await origin.deltas.tend();
  await until('the delta', () => stateOf(1, 2) === 'published');
});

it('opens images with the encoders that enough devices with the base have', async () => {
  const { origin } = harness;
  for (const ability of ['recipe-1 zstd pako', 'recipe-1 zstd', 'recipe-1', 'recipe-1', ''])
    await running(1, 'north', ability);
  origin.deltas.start();
  await origin.deltas.request([{ product: 'camera', from: 1, to: 2 }], 'test');
  await until('the delta', () => stateOf(1, 2) === 'published');
  expect(encoders).toEqual([['zstd']]);
});

it("signs the order again only when the origin's keys are there", async () => {
  await running(1);
  await harness.startRollout({ counter: 2 });
  const { origin } = harness;
  const key = join(harness.path, 'keys', 'rollouts.pem');
  const bytes = readFileSync(key);
  rmSync(key);
  await harness.restart();
  harness.origin.deltas.start();
  await harness.origin.deltas.tend().catch(() => undefined);
  expect((await orders())[0]).toHaveProperty('deltasBy');
  expect(origin).not.toBe(harness.origin);
  await harness.origin.deltas.stop();
  writeFileSync(key, bytes);
  await harness.restart();
  harness.origin.deltas.start();
  await harness.origin.deltas.tend();
  await until('the order', async () => (await orders())[0]?.deltasBy === undefined);
});

it('removes deltas when the rollout is aborted, or is no longer the one that latecomers follow', async () => {
  await running(1);
  const first = await harness.startRollout({ counter: 2 });
  harness.origin.deltas.start();
  await harness.origin.deltas.tend();
  await until('the delta', () => listed().length === 1);
  await harness.call('POST', `/api/v1/rollouts/${String(first.id)}/complete`, { acknowledge: true });
  await harness.origin.deltas.tend();
  expect(listed()).toEqual(['1 → 2']);

  const third = imageOf(...second.chunks, ...randomChunks(1));
  await harness.operator.publishOk('camera', third);
  const next = await harness.startRollout({ counter: 3 });
  await harness.origin.deltas.tend();
  await until('the next delta', () => listed().length === 2);
  await harness.call('POST', `/api/v1/rollouts/${String(next.id)}/abort`, {});
  await harness.origin.deltas.tend();
  expect(listed()).toEqual(['1 → 2']);
  expect(harness.origin.deltas.list().map(({ to }) => to)).toEqual([2]);
});

it('continues after the last finished window when its process was killed', async () => {
  await running(1);
  await harness.startRollout({ counter: 2 });
  let isDead = false;
  onWindow = ({ firstChunk }) => {
    if (firstChunk < 3) return Promise.resolve();
    isDead = true;
    return new Promise(() => undefined);
  };
  harness.origin.deltas.start();
  await harness.origin.deltas.tend();
  await until('two windows', () => isDead);
  expect(await deltas()).toMatchObject({ deltas: [{ state: 'making', patches: 2, doneBasisPoints: 7500 }] });
  // One of the files is damaged: its window is made again.
  const [damaged = ''] = readdirSync(join(harness.path, 'deltas')).filter(name => name.includes('.1.window'));
  const path = join(harness.path, 'deltas', damaged);
  writeFileSync(path, Buffer.concat([readFileSync(path).subarray(0, -1), Buffer.from('x')]));
  onWindow = async () => undefined;
  await harness.restart();
  harness.origin.deltas.start();
  await until('the delta', () => stateOf(1, 2) === 'published');
  expect(skipped).toEqual([2]);
  expectPatchesToMake(second);
});

it('tries again after a failure, after ever longer waits, gives up in the end, and begins anew when an operator asks', async () => {
  onWindow = async () => {
    throw new Error('the maker is broken');
  };
  const ask = () =>
    harness.call('POST', '/api/v1/products/camera/deltas', {
      to: { version: '2.0.0' },
      from: [{ counter: 1 }],
    });
  expect(await ask()).toMatchObject({ httpStatus: 202, deltas: [{ state: 'waiting', by: 'test' }] });
  harness.origin.deltas.start();
  for (let tries = 1; tries <= 4; tries += 1) {
    await until('a failure', async () => {
      const { deltas: list } = await deltas();
      return JSON.stringify(list).includes(`"tries":${tries}`);
    });
    harness.clock.passHours(1);
    await harness.origin.deltas.tend();
  }
  expect(stateOf(1, 2)).toBe('failed');
  onWindow = async () => undefined;
  await ask();
  await until('the delta', () => stateOf(1, 2) === 'published');
  const { entries } = await harness.origin.audit.find(0, 100, { action: 'delta.request' });
  expect(entries).toMatchObject([
    { by: 'test', subject: 'product:camera', details: { from: 1, to: 2 } },
    { by: 'test' },
  ]);
});

it('counts a start that ends while a delta is made as a try, unless a window was finished, and gives up in the end', async () => {
  const ask = () => harness.origin.deltas.request([{ product: 'camera', from: 1, to: 2 }], 'test');
  const job = () => harness.origin.deltas.job({ product: 'camera', from: 1, to: 2 });
  /** Ends the process while it makes this window. */
  const dieAt = async (chunk: number) => {
    let isReached = false;
    onWindow = ({ firstChunk }) => {
      if (firstChunk < chunk) return Promise.resolve();
      isReached = true;
      return new Promise(() => undefined);
    };
    harness.origin.deltas.start();
    await until('the window', () => isReached);
    await harness.restart();
    harness.clock.passHours(1);
  };
  await ask();
  await dieAt(2);
  expect(job()).toMatchObject({ state: 'waiting', tries: 0 });
  for (const tries of [1, 2, 3]) {
    await dieAt(2);
    expect(job()).toMatchObject({ state: 'waiting', tries, reason: { code: 'SITECAST_DELTA_INTERRUPTED' } });
  }
  await dieAt(2);
  expect(job()).toMatchObject({ state: 'failed', tries: 4, reason: { code: 'SITECAST_DELTA_INTERRUPTED' } });
  onWindow = async () => undefined;
  harness.origin.deltas.start();
  await ask();
  await until('the delta', () => stateOf(1, 2) === 'published');
  expectPatchesToMake(second);
});

it('fails clearly where the disk is full, keeps what is finished, and continues when there is room', async () => {
  onWindow = async ({ firstChunk }) => {
    if (firstChunk === 2) freeBytes = 0;
  };
  harness.origin.deltas.start();
  await harness.origin.deltas.request([{ product: 'camera', from: 1, to: 2 }], 'test');
  await until(
    'a failure',
    () => harness.origin.deltas.job({ product: 'camera', from: 1, to: 2 })?.tries === 1,
  );
  expect(await deltas()).toMatchObject({
    deltas: [{ state: 'waiting', patches: 1, reason: { code: 'SITECAST_NO_SPACE' } }],
  });
  // The origin's other services work.
  expect(await harness.call('GET', '/api/v1/repository')).toMatchObject({ httpStatus: 200 });
  freeBytes = 2 ** 40;
  onWindow = async () => undefined;
  harness.clock.passHours(1);
  await harness.origin.deltas.tend();
  await until('the delta', () => stateOf(1, 2) === 'published');
  expect(skipped).toEqual([1]);
});

it('makes one delta at a time', async () => {
  await harness.operator.publishOk('camera', imageOf(...second.chunks, ...randomChunks(2)));
  let [underWay, most] = [0, 0];
  onWindow = async () => {
    underWay += 1;
    most = Math.max(most, underWay);
    await new Promise(resolve => setTimeout(resolve, 5));
    underWay -= 1;
  };
  harness.origin.deltas.start();
  const wanted = [1, 2].map(from => ({ product: 'camera', from, to: 3 }));
  await harness.origin.deltas.request(wanted, 'test');
  await until('both', () => wanted.every(({ from }) => stateOf(from, 3) === 'published'));
  expect(most).toBe(1);
});

it('makes a damaged delta again, and keeps one that the next process has no job for', async () => {
  await running(1);
  await harness.startRollout({ counter: 2 });
  harness.origin.deltas.start();
  await harness.origin.deltas.tend();
  await until('the delta', () => stateOf(1, 2) === 'published');
  await harness.origin.repository.changeDeltas({ removed: [{ product: 'camera', from: 1, to: 2 }] });
  await harness.origin.deltas.tend();
  await until('the delta again', () => listed().length === 1);
  await harness.origin.deltas.stop();
  writeFileSync(join(harness.path, 'deltas/jobs.json'), 'damaged');
  await harness.restart();
  await harness.origin.deltas.tend();
  expect(await deltas()).toMatchObject({ deltas: [{ state: 'published', from: 1, to: 2 }] });
});

it('refuses a request that names no delta, and operators whose role is too low', async () => {
  const ask = (body: unknown) => harness.call('POST', '/api/v1/products/camera/deltas', body);
  expect(await ask({ to: { counter: 2 }, from: [{ counter: 2 }] })).toMatchObject({ httpStatus: 400 });
  expect(await ask({ to: { counter: 9 } })).toMatchObject({
    httpStatus: 404,
    code: 'SITECAST_RELEASE_UNKNOWN',
  });
  expect(await ask({ to: { counter: 2 }, from: [] })).toMatchObject({ httpStatus: 400 });
  const { token } = await harness.origin.tokens.create({ name: 'eyes', role: 'viewer' });
  harness.operator.token = token;
  expect(
    await harness.operator.call('POST', '/api/v1/products/camera/deltas', { to: { counter: 2 } }),
  ).toMatchObject({
    httpStatus: 403,
  });
});

it('publishes a delta in the end, wherever the process dies and whatever the power cut loses', async () => {
  const runs = `${harness.path}-runs`;
  const now = () => harness.clock.nowMs;
  const name = { product: 'camera', from: 1, to: 2 };
  const ends = { kept: 0, lost: 0 };
  for (let dieAt = 1; ; dieAt += 3 * POINT_STEP) {
    const path = join(runs, String(dieAt));
    cpSync(harness.path, path, { recursive: true });
    const breaker = new Breaker(path);
    const dying = await openTestOrigin({ ...testDisk(path, breaker), now });
    breaker.arm(dieAt);
    await dying.deltas.request([name], 'test').catch(() => undefined);
    dying.deltas.start();
    await until('an end', () => breaker.hasDied || dying.deltas.job(name)?.state === 'published');
    await dying.deltas.stop();
    if (!breaker.hasDied) break;
    breaker.lose((['nothing', 'contents', 'everything'] as const)[dieAt % 3] ?? 'nothing');
    let laterMs = 0;
    const next = await openTestOrigin({ ...testDisk(path), now: () => now() + laterMs });
    // A start that ended while a delta was made counts as a failed try.
    laterMs = 120_000;
    ends[next.deltas.job(name) ? 'kept' : 'lost'] += 1;
    await next.deltas.request([name], 'test');
    next.deltas.start();
    await next.deltas.tend();
    await until('the delta', () => next.deltas.job(name)?.state === 'published');
    await next.deltas.stop();
    await next.scrubber.survey();
    const { committed } = next.repository;
    expect(committed && listedDeltas(committed)).toMatchObject([name]);
    expectPatchesToMake(second, path);
    expect(readdirSync(join(path, 'deltas'))).toEqual(['jobs.json']);
    rmSync(path, { recursive: true });
  }
  rmSync(runs, { recursive: true });
  expect(ends.kept).toBeGreaterThan(6 / POINT_STEP);
  expect(ends.lost).toBeGreaterThan(0);
});

async function orders(): Promise<Record<string, unknown>[]> {
  const { repository } = harness.origin;
  const file = repository.committed?.rollouts.signed.targets['rollouts/camera.json'];
  const bytes = await repository.content.readRollouts(
    { name: 'rollouts/camera.json', sha256: file?.hashes.sha256 ?? '' },
    () => [],
  );
  return JSON.parse(bytes.toString()).rollouts;
}

/** Applies the published patches, as a device would. */
function expectPatchesToMake(image: TestImage, path = harness.path): void {
  const folder = join(path, 'repository/targets/deltas');
  const read = (ending: string) =>
    readFileSync(join(folder, readdirSync(folder).find(name => name.endsWith(ending)) ?? ''));
  const recipe = decodeRecipe(read('.recipe'));
  const patchIndex = ChunkIndex.decode(read('.caibx'));
  const patches = Buffer.concat(
    [...patchIndex.places()].map(({ id, lengthBytes }) =>
      decompressExactly(readFileSync(join(path, publishedPath(id))), lengthBytes),
    ),
  );
  let at = 0;
  for (const { firstChunk, patchLength } of recipe.windows) {
    const chunk = image.chunks[firstChunk] ?? Buffer.alloc(0);
    const patch = patches.subarray(at, at + patchLength);
    const base = Buffer.concat(harness.image.chunks).subarray(0, 100);
    const made = applyPatch({ patch, base, targetLength: chunk.length });
    expect(chunkIdOf(made)).toEqual(chunkIdOf(chunk));
    at += patchLength;
  }
}
