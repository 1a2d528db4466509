import { until } from '@sitecast/shared/testing';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { listedDeltas } from '../repository/delta-listing.ts';
import { testMaker } from '../testing/deltas.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { imageOf } from '../testing/operator.ts';
import { randomChunks } from '../testing/setup.ts';

// Which delta is made first, how a delta ends, and what stays visible of it (decision 0121).

let harness: FleetHarness;
/** What the maker does before each window. */
let onWindow: () => Promise<void>;
/** The number of chunks of the target images of deltas that were begun, in this order. */
let begun: number[];

beforeEach(async () => {
  onWindow = async () => undefined;
  begun = [];
  harness = await FleetHarness.open(path => ({
    ...testDisk(path),
    makesDeltas: true,
    deltaMaker: testMaker({
      onWindow: () => onWindow(),
      onRequest: ({ target }) => begun.push(target.index.count),
    }),
  }));
  const second = imageOf(...harness.image.chunks.slice(0, 1), ...randomChunks(3));
  await harness.operator.publishOk('camera', second);
  await harness.operator.publishOk('camera', imageOf(...second.chunks.slice(0, 2), ...randomChunks(3)));
  const device = await harness.device('north');
  const booted = { slot: 'A' as const, release: { counter: 1, version: '1.0.0' } };
  await device.report({ state: 'idle', booted, inventory: { product: 'camera', deltas: 'recipe-1' } });
});
afterEach(async () => {
  await harness.origin.deltas.stop();
  await harness.close();
});

const to = (counter: number) => ({ product: 'camera', from: 1, to: counter });
const jobOf = (counter: number) => harness.origin.deltas.job(to(counter));
const listed = () => {
  const { committed } = harness.origin.repository;
  return committed ? listedDeltas(committed).map(({ from, to: target }) => `${from} → ${target}`) : [];
};
const ask = (counter: number) => harness.origin.deltas.request([to(counter)], 'anna');
const remove = (body: unknown) => harness.call('POST', '/api/v1/products/camera/deltas/remove', body);
const act = (id: unknown, verb: string) =>
  harness.call('POST', `/api/v1/rollouts/${String(id)}/${verb}`, { acknowledge: true });

/** Makes the maker wait in its first window until `release` is called. */
function holdMaker(): { isHeld: () => boolean; release: () => void } {
  let isHeld = false;
  let end: () => void = () => undefined;
  const held = new Promise<void>(resolve => {
    end = resolve;
  });
  onWindow = () => {
    isHeld = true;
    return held;
  };
  return {
    isHeld: () => isHeld,
    release: () => {
      onWindow = async () => undefined;
      end();
    },
  };
}

it('makes what a rollout needs before what an operator requested, even if that is being made already', async () => {
  const { deltas } = harness.origin;
  const maker = holdMaker();
  deltas.start();
  await ask(3);
  await until('the one that was asked for to begin', () => maker.isHeld());
  harness.clock.passHours(1);
  await harness.startRollout({ counter: 2 });
  await deltas.tend();
  expect(jobOf(2)).toMatchObject({ state: 'waiting', by: 'origin' });
  maker.release();
  await until('both', () => [2, 3].every(counter => jobOf(counter)?.state === 'published'));
  expect(listed()).toEqual(['1 → 2', '1 → 3']);
  // Release 2 has four chunks, release 3 has five.
  expect(begun).toEqual([5, 4, 5]);
});

it('makes and keeps a delta that was requested after the rollouts to its release were over', async () => {
  const { deltas } = harness.origin;
  const { id } = await harness.startRollout({ counter: 2 });
  await act(id, 'abort');
  harness.clock.passHours(1);
  await ask(2);
  deltas.start();
  await deltas.tend();
  await until('the delta', () => jobOf(2)?.state === 'published');
  await deltas.tend();
  expect(jobOf(2)).toMatchObject({ state: 'published', by: 'anna' });
  expect(listed()).toEqual(['1 → 2']);

  // The rollout that it was requested for.
  harness.clock.passHours(1);
  const next = await harness.startRollout({ counter: 2 });
  harness.clock.passHours(1);
  await act(next.id, 'abort');
  await deltas.tend();
  expect(listed()).toEqual([]);
  const reason = {
    code: 'SITECAST_DELTA_OVER',
    message: `rollout ${String(next.id)} to 2.0.0 was aborted`,
  };
  expect(await harness.call('GET', '/api/v1/products/camera/deltas')).toMatchObject({
    deltas: [{ from: 1, to: 2, state: 'removed', by: 'anna', reason }],
  });
  await harness.restart();
  expect(jobOf(2)).toMatchObject({ state: 'removed', reason });
  harness.clock.passHours(8 * 24);
  await harness.origin.deltas.tend();
  expect(jobOf(2)).toBeUndefined();
});

it('shows both reasons for a delta that failed and was then removed', async () => {
  const { deltas } = harness.origin;
  const { id } = await harness.startRollout({ counter: 3, match: { sites: ['north'] } });
  onWindow = async () => {
    throw new Error('the maker is broken');
  };
  await ask(3);
  deltas.start();
  await until('a failure', () => jobOf(3)?.tries === 1);
  harness.clock.passHours(1);
  await act(id, 'abort');
  await deltas.tend();
  expect(jobOf(3)).toMatchObject({
    state: 'removed',
    reason: {
      code: 'SITECAST_DELTA_OVER',
      message: expect.stringMatching(/was aborted; making it had failed: .*the maker is broken/),
    },
  });
});

it('says why none is made where the origin can publish nothing', async () => {
  expect(await harness.call('GET', '/api/v1/products/camera/deltas')).not.toHaveProperty('held');
  const key = join(harness.path, 'keys', 'deltas.pem');
  const bytes = readFileSync(key);
  rmSync(key);
  await harness.restart();
  harness.origin.deltas.start();
  await ask(3);
  expect(await harness.call('GET', '/api/v1/products/camera/deltas')).toMatchObject({
    deltas: [{ state: 'waiting' }],
    held: expect.stringContaining('lacks its keys of deltas'),
  });
  await harness.origin.deltas.stop();
  writeFileSync(key, bytes);
  await harness.restart();
  harness.origin.deltas.start();
  await until('the delta', () => jobOf(3)?.state === 'published');
});

it('forgets a delta that the origin began by itself together with its rollout', async () => {
  const { deltas } = harness.origin;
  const { id } = await harness.startRollout({ counter: 2 });
  await deltas.tend();
  expect(jobOf(2)).toMatchObject({ state: 'waiting', by: 'origin' });
  await act(id, 'abort');
  await deltas.tend();
  expect(deltas.list()).toEqual([]);
});

it('ends a delta when its base or target release is withdrawn, and says so', async () => {
  const { deltas } = harness.origin;
  deltas.start();
  await ask(2);
  await until('the delta', () => jobOf(2)?.state === 'published');
  const { operator } = harness;
  operator.next();
  operator.removeTarget('releases/camera-1.json');
  operator.removeTarget('releases/camera-1.caibx');
  const product = operator.products.get('camera');
  if (!product) throw new Error('no product');
  operator.setProduct({ ...product, withdrawn: [{ counter: 1, version: '1.0.0' }] });
  await operator.uploadFiles();
  expect(await operator.submit()).toMatchObject({ httpStatus: 200 });
  await deltas.tend();
  expect(listed()).toEqual([]);
  expect(jobOf(2)).toMatchObject({
    state: 'removed',
    reason: { code: 'SITECAST_RELEASE_UNKNOWN', message: 'one of its releases was withdrawn' },
  });
});

it('lets an operator end a delta: it is not begun again for this rollout, no device waits, and the next rollout requests it again', async () => {
  const { deltas } = harness.origin;
  const maker = holdMaker();
  const { id } = await harness.startRollout({ counter: 2 });
  deltas.start();
  await deltas.tend();
  await until('a window', () => maker.isHeld());
  harness.clock.passHours(1);
  expect(await remove({ to: { version: '2.0.0' }, from: [{ version: '1.0.0' }] })).toMatchObject({
    httpStatus: 200,
    deltas: [{ from: 1, to: 2, state: 'removed', reason: { message: 'test removed it' } }],
  });
  maker.release();
  await deltas.tend();
  await deltas.tend();
  expect(jobOf(2)).toMatchObject({ state: 'removed' });
  expect(listed()).toEqual([]);
  expect((await harness.call('GET', `/api/v1/rollouts/${String(id)}`)).deltasBy).toBeUndefined();
  const { entries } = await harness.origin.audit.find(0, 100, { action: 'delta.remove' });
  expect(entries).toMatchObject([{ by: 'test', subject: 'product:camera', details: { from: 1, to: 2 } }]);

  await act(id, 'abort');
  harness.clock.passHours(1);
  expect(await harness.startRollout({ counter: 2 })).toHaveProperty('deltasBy');
  await deltas.tend();
  await until('the delta', () => jobOf(2)?.state === 'published');
});

it('lets an operator remove published deltas, at once and for good; refuses deltas that are not there', async () => {
  const { deltas } = harness.origin;
  deltas.start();
  await ask(2);
  await ask(3);
  await until('both', () => [2, 3].every(counter => jobOf(counter)?.state === 'published'));
  expect(await remove({ to: { counter: 2 }, from: [{ counter: 3 }] })).toMatchObject({
    httpStatus: 404,
    code: 'SITECAST_DELTA_UNKNOWN',
    detail: expect.stringContaining('from 3.0.0 to camera 2.0.0'),
  });
  expect(listed()).toHaveLength(2);
  expect(await remove({ to: { counter: 2 } })).toMatchObject({ httpStatus: 200, deltas: [{ to: 2 }] });
  expect(listed()).toEqual(['1 → 3']);
  await deltas.tend();
  expect(listed()).toEqual(['1 → 3']);
  expect(await remove({ to: { counter: 2 } })).toMatchObject({ httpStatus: 404 });
  // It must be requested again.
  await ask(2);
  await until('it again', () => jobOf(2)?.state === 'published');
});

it('answers with an error, not an empty list, for a product without releases', async () => {
  expect(await harness.call('GET', '/api/v1/products/camrea/deltas')).toMatchObject({
    httpStatus: 404,
    code: 'SITECAST_PRODUCT_UNKNOWN',
    hint: expect.stringContaining('Is camera meant?'),
  });
});

async function running(counter: number, site: string): Promise<void> {
  const device = await harness.device(site);
  const release = { counter, version: `${counter}.0.0` };
  const inventory = { product: 'camera', deltas: 'recipe-1' };
  await device.report({ state: 'idle', booted: { slot: 'A', release }, inventory });
}

it('makes deltas for the devices that a rollout leads, and from a newer release only where a rollout leads back', async () => {
  await running(1, 'north');
  // At another site, which the rollout doesn't reach.
  await running(2, 'south');
  await harness.startRollout({ counter: 3, match: { sites: ['north'] } });
  const { deltas } = harness.origin;
  await deltas.tend();
  const wanted = () => deltas.list('camera').map(({ from, to }) => `${from} → ${to}`);
  expect(wanted()).toEqual(['1 → 3']);
  await running(3, 'south');
  // Devices that run 2 or 3 don't go back to 1; those that run 3 may be led back to 2, once somebody orders that.
  const request = (counter: number) =>
    harness.call('POST', '/api/v1/products/camera/deltas', { to: { counter } });
  expect(await request(1)).toMatchObject({ httpStatus: 202, deltas: [] });
  await request(2);
  expect(wanted()).toEqual(['1 → 3', '1 → 2']);
  await harness.startRollout({ counter: 2, match: { sites: ['south'] }, allowDowngrade: true });
  await deltas.tend();
  expect(wanted()).toEqual(['1 → 3', '1 → 2', '3 → 2']);
});
