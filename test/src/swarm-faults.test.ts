import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { get } from 'node:http';
import { ChunkIndex } from '@sitecast/shared/content';
import { Strangers } from '@sitecast/shared/swarm/testing';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { HostilePeer, type Manner } from './testbed/hostile-peer.ts';
import { IMAGE_BYTES, SwarmTestbed, THREE } from './testbed/swarm-testbed.ts';

const MIB = 2 ** 20;
const MANNERS: readonly Manner[] = ['lies', 'hangs', 'boasts', 'trickles', 'babbles', 'oversized'];

// One site for all tests. Each test has an image of its own.

let site: SwarmTestbed;
const hostile: HostilePeer[] = [];
beforeAll(async () => {
  site = await SwarmTestbed.openWithThree();
});
afterEach(async () => {
  await Promise.all(hostile.splice(0).map(peer => peer.close()));
  await site.restore();
});
afterAll(() => site.close());

const inAnHour = (): string => new Date(Date.now() + 3_600_000).toISOString();

async function join(): Promise<HostilePeer> {
  const token = (await readFile(site.testbed.path('device.token'), 'utf8')).trim();
  const peer = await HostilePeer.join(site.gateway.lan.url, token);
  hostile.push(peer);
  return peer;
}

it('a WAN that is cut delays only what the site lacks, until it is back', async () => {
  const { lan, wan } = site.gateway;
  const { version, image } = await site.release();
  lan.pace(16 * MIB);
  wan.pace(MIB);
  const id = await site.rollOut(version);
  await site.untilSiteHas(image, IMAGE_BYTES / 4, ...THREE);
  wan.cut();
  const before = wan.receivedBytes;
  await site.testbed.until(async () => wan.refused > 3, 'the gateway to miss it');
  wan.mend();
  await site.untilCompleted(id, THREE.length);
  for (const name of THREE) expect(await site.isRight(name, image)).toBe(true);
  expect(wan.receivedBytes - before).toBeLessThan(1.2 * IMAGE_BYTES);
});

it('peers that misbehave, hang, announce too much, trickle, send garbage or flood block no update; the misbehaving one is reported', async () => {
  const { version, image, index } = await site.release();
  for (const manner of MANNERS) await (await join()).offer(index, manner);
  const id = await site.rollOut(version);
  const [liar] = hostile;
  for (const { addresses } of (await liar?.others()) ?? []) await liar?.flood(addresses[0] ?? '', 40);
  await site.untilCompleted(id, THREE.length);
  for (const name of THREE) expect(await site.isRight(name, image)).toBe(true);
  const told = JSON.stringify(await site.operate('device', 'list'));
  expect(told).not.toContain(`"state":"failed"`);
  const histories = await Promise.all(
    THREE.map(async name => {
      const status = await site.statusOf(name);
      return JSON.stringify(await site.operate('device', 'show', status?.id ?? ''));
    }),
  );
  expect(histories.join('\n')).toContain(`${liar?.id} sent wrong bytes`);
});

it('strangers that fill the ports of a device and of the gateway block neither its chunks nor an update', async () => {
  const strangers = new Strangers();
  try {
    const [scout, newcomer] = [await join(), await join()];
    const { version, image, index } = await site.release();
    await site.rollOut(version, '--not-before', inAnHour());
    await site.untilSiteHas(image, IMAGE_BYTES, 'one');
    const id = (await site.statusOf('one'))?.id;
    const address = (await scout.others()).find(other => other.id === id)?.addresses[0] ?? '';
    await strangers.connectWithKeys(address, 128);
    await strangers.openStreams(address, 80);
    await strangers.beSilent(Number(/\/tcp\/(\d+)\//.exec(address)?.[1]), 150);
    // No gateway has named this peer, and it was never connected before.
    expect((await newcomer.ask(address, ChunkIndex.decode(index).idAt(0))).verify()).toBeDefined();
    await strangers.beSilent(Number(new URL(site.gateway.url).port), 4200);
    expect(await statusFrom('127.0.0.20', site.gateway.url)).toBe(200);
    await site.untilCompleted(await site.rollOut(version), THREE.length);
    for (const name of THREE) expect(await site.isRight(name, image)).toBe(true);
    await site.testbed.until(
      async () => ((await site.statusOf('one'))?.peers?.dropped ?? 0) > 0,
      'the device to say what it dropped',
    );
  } finally {
    await strangers.close();
  }
});

/** Sends a request from an unknown host of the LAN. */
async function statusFrom(localAddress: string, url: string): Promise<number | undefined> {
  const request = get(`${url}/healthz`, { localAddress, agent: false });
  const [response] = await once(request, 'response');
  return response.resume().statusCode;
}

it('a device is served by the others until it is revoked', async () => {
  const { version, index } = await site.release();
  await site.untilCompleted(await site.rollOut(version), THREE.length);
  const peer = await join();
  const chunk = ChunkIndex.decode(index).idAt(0);
  // Peers that were hostile in other tests are still listed.
  const status = await site.statusOf('one');
  const one = (await peer.others()).find(({ id }) => id === status?.id);
  const address = one?.addresses[0] ?? '';
  expect((await peer.ask(address, chunk)).verify()).toBeDefined();
  await site.operate('device', 'revoke', peer.id);
  await site.testbed.until(() =>
    peer.ask(address, chunk).then(
      () => false,
      () => true,
    ),
  );
});

it('a gateway that comes back with an empty disk fetches only what the site lacks, which is nothing in the end', async () => {
  const { gateway } = site;
  const { version, image, index } = await site.release();
  await site.rollOut(version, '--not-before', inAnHour());
  await site.untilSiteHas(image, IMAGE_BYTES / 2, ...THREE);
  await gateway.kill();
  const before = gateway.wan.receivedBytes;
  await gateway.restart({ isEmpty: true });
  for (const name of THREE) await site.untilSiteHas(image, IMAGE_BYTES, name);
  expect(gateway.wan.receivedBytes - before).toBeLessThan(0.75 * IMAGE_BYTES);
  // This time no device asks for a chunk: the gateway fetches ahead from its devices.
  await gateway.kill();
  const whole = gateway.wan.receivedBytes;
  await gateway.restart({ isEmpty: true, prefetch: true });
  const { count } = ChunkIndex.decode(index);
  await site.testbed.until(
    async () => (await gateway.found('siteDevice')) + (await gateway.found('upstream')) >= count,
    'all chunks to be fetched ahead',
  );
  expect(await gateway.found('upstream')).toBe(0);
  expect(gateway.wan.receivedBytes - whole).toBeLessThan(0.1 * IMAGE_BYTES);
});
