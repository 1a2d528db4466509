import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { afterEach, expect, it } from 'vitest';
import { IMAGE_BYTES, SwarmBed, THREE } from './bed/swarm-bed.ts';

const MIB = 2 ** 20;

let site: SwarmBed;
afterEach(() => site.close());

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

async function openSite(options: Parameters<typeof SwarmBed.openWithThree>[0] = {}): Promise<Buffer> {
  const opened = await SwarmBed.openWithThree(options);
  site = opened.site;
  return opened.image;
}

it('an image crosses the thin link of its gateway about once, for all devices of the site and for one that joins late', async () => {
  const image = await openSite();
  const before = site.gateway.lan.receivedBytes;
  const id = await site.rollOut('1.0.0');
  await site.untilCompleted(id, THREE.length);
  for (const name of THREE) expect(await site.isRight(name, image)).toBe(true);
  expect(site.gateway.lan.receivedBytes - before).toBeLessThan(1.5 * IMAGE_BYTES);
  // An agent writes down what it has exchanged now and then.
  await site.bed.until(async () => {
    const shown = await Promise.all(THREE.map(name => site.statusOf(name)));
    const sum = (count: 'receivedBytes' | 'sentBytes') =>
      shown.reduce((total, status) => total + (status?.peers?.[count] ?? 0), 0);
    return sum('receivedBytes') > 1.5 * IMAGE_BYTES && sum('sentBytes') > 1.5 * IMAGE_BYTES;
  });
  const whole = site.gateway.lan.receivedBytes;
  await site.startDevice('four');
  await site.untilSiteHas(image, IMAGE_BYTES, 'four');
  expect(site.gateway.lan.receivedBytes - whole).toBeLessThan(0.5 * IMAGE_BYTES);
});

it('a gateway that is killed in the middle is missed by nobody who has another, and is found again', async () => {
  const image = await openSite({ gateways: 2 });
  const [first, second] = site.gateways;
  const id = await site.rollOut('1.0.0');
  await site.untilSiteHas(image, IMAGE_BYTES / 4, ...THREE);
  await first?.kill();
  await site.untilCompleted(id, THREE.length);
  for (const name of THREE) expect(await site.isRight(name, image)).toBe(true);
  await first?.restart();
  second?.lan.cut();
  await site.publish('2.0.0', MIB);
  await site.untilCompleted(await site.rollOut('2.0.0'), THREE.length);
});

it('once the site has all of it, devices finish without their gateway, and wait for its leave to activate', async () => {
  const image = await openSite();
  const id = await site.rollOut('1.0.0');
  await site.untilSiteHas(image, IMAGE_BYTES, ...THREE);
  site.gateway.lan.cut();
  for (const name of THREE) {
    await site.untilSiteHas(image, IMAGE_BYTES, name);
    await site.bed.until(async () => (await site.statusOf(name))?.waitingFor === 'lease');
    expect(await site.isRight(name, image)).toBe(true);
  }
  site.gateway.lan.mend();
  await site.untilCompleted(id, THREE.length);
});

it('with all gateways gone, one device that has the image is enough for the others', async () => {
  site = await SwarmBed.open({ lanBytesPerS: 16 * MIB });
  const image = await site.publish('1.0.0', IMAGE_BYTES);
  const go = site.bed.path('go');
  const place = ['--peer-listen', `127.0.0.1:${await freePort()}`];
  await site.startDevice('one', ...place);
  await site.startDevice('two', '--hook-pre-download', `test -e ${go} || exit 75`);
  const id = await site.rollOut('1.0.0');
  await site.untilCompleted(id, 1);
  await site.bed.until(async () => (await site.statusOf('two'))?.waitingFor === 'hook');
  site.gateway.lan.cut();
  // It was started anew since: what it holds it knows from its disk alone.
  await site.killDevice('one');
  await site.startDevice('one', ...place);
  await writeFile(go, '');
  await site.untilSiteHas(image, IMAGE_BYTES, 'two');
  expect(await site.isRight('two', image)).toBe(true);
});
