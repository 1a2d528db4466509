import { once } from 'node:events';
import { rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { IMAGE_BYTES, SwarmTestbed, THREE } from './testbed/swarm-testbed.ts';

const MIB = 2 ** 20;

// One site for all tests. Each test has an image of its own.

let site: SwarmTestbed;
beforeAll(async () => {
  // The first device keeps its port over restarts. The others wait where a test says so.
  const port = await freePort();
  site = await SwarmTestbed.openWithThree((name, { testbed }) => [
    '--health-command',
    `while test -e ${testbed.path('hold')}; do sleep 0.1; done`,
    ...(name === 'one'
      ? ['--peer-listen', `127.0.0.1:${port}`]
      : ['--hook-pre-download', `test ! -e ${testbed.path('wait')} || exit 75`]),
  ]);
});
afterEach(() => site.restore());
afterAll(() => site.close());

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

it('an image crosses the thin link of its gateway about once, for all devices of the site and for one that joins late', async () => {
  const { version, image } = await site.release();
  const before = site.gateway.lan.receivedBytes;
  const id = await site.rollOut(version);
  await site.untilCompleted(id, THREE.length);
  for (const name of THREE) expect(await site.isRight(name, image)).toBe(true);
  expect(site.gateway.lan.receivedBytes - before).toBeLessThan(1.5 * IMAGE_BYTES);
  // An agent stores its exchanged bytes from time to time.
  await site.testbed.until(async () => {
    const shown = await Promise.all(THREE.map(name => site.statusOf(name)));
    const sum = (count: 'receivedBytes' | 'sentBytes') =>
      shown.reduce((total, status) => total + (status?.peers?.[count] ?? 0), 0);
    return sum('receivedBytes') > 1.5 * IMAGE_BYTES && sum('sentBytes') > 1.5 * IMAGE_BYTES;
  });
  const whole = site.gateway.lan.receivedBytes;
  await site.startDevice('four');
  await site.untilSiteHas(image, IMAGE_BYTES, 'four');
  expect(site.gateway.lan.receivedBytes - whole).toBeLessThan(0.5 * IMAGE_BYTES);
  await site.killDevice('four');
});

it('once the site has the whole image, devices finish without their gateway, and wait for its lease to activate', async () => {
  const { version, image } = await site.release();
  // A quick device may get its lease before the cut, and keeps it. The others wait for theirs.
  await writeFile(site.testbed.path('hold'), '');
  const id = await site.rollOut(version, '--max-down', '50%');
  await site.untilSiteHas(image, IMAGE_BYTES, ...THREE);
  site.gateway.lan.cut();
  const waitingFor: unknown[] = [];
  for (const name of THREE) {
    await site.untilSiteHas(image, IMAGE_BYTES, name);
    await site.testbed.until(async () => {
      const status = await site.statusOf(name);
      return status?.waitingFor === 'lease' || status?.state === 'confirming';
    }, `${name} to wait`);
    waitingFor.push((await site.statusOf(name))?.waitingFor);
    expect(await site.isRight(name, image)).toBe(true);
  }
  expect(waitingFor.filter(what => what === 'lease').length).toBeGreaterThanOrEqual(THREE.length - 2);
  await rm(site.testbed.path('hold'));
  site.gateway.lan.mend();
  await site.untilCompleted(id, THREE.length);
});

it('with all gateways gone, one device that has the image suffices for the others', async () => {
  site.gateway.lan.pace(16 * MIB);
  await writeFile(site.testbed.path('wait'), '');
  const { version, image } = await site.release();
  const id = await site.rollOut(version);
  await site.untilCompleted(id, 1);
  for (const name of ['two', 'three'])
    await site.testbed.until(async () => (await site.statusOf(name))?.waitingFor === 'hook');
  site.gateway.lan.cut();
  // The device was restarted, so it knows what it has from its disk only.
  await site.killDevice('one');
  await site.startDevice('one');
  await rm(site.testbed.path('wait'));
  for (const name of ['two', 'three']) {
    await site.untilSiteHas(image, IMAGE_BYTES, name);
    expect(await site.isRight(name, image)).toBe(true);
  }
});

it('a device that leaves during an update does not keep the others from finishing', async () => {
  const { version, image } = await site.release();
  await site.rollOut(version);
  await site.untilSiteHas(image, IMAGE_BYTES / 3, ...THREE);
  await site.killDevice('three');
  for (const name of ['one', 'two']) {
    await site.untilSiteHas(image, IMAGE_BYTES, name);
    expect(await site.isRight(name, image)).toBe(true);
  }
});
