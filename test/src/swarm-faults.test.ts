import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { ChunkIndex } from '@sitecast/shared/content';
import { afterEach, expect, it } from 'vitest';
import { HostilePeer, type Manner } from './bed/hostile-peer.ts';
import { IMAGE_BYTES, SwarmBed, THREE } from './bed/swarm-bed.ts';

const MIB = 2 ** 20;

let site: SwarmBed;
const hostile: HostilePeer[] = [];
afterEach(async () => {
  await Promise.all(hostile.splice(0).map(peer => peer.close()));
  await site.close();
});

async function indexOf(): Promise<Buffer> {
  const releases = site.bed.path('origin', 'repository', 'targets', 'releases');
  const [name = ''] = (await readdir(releases)).filter(file => file.endsWith('.caibx'));
  return readFile(`${releases}/${name}`);
}

async function openSite(options: Parameters<typeof SwarmBed.openWithThree>[0] = {}): Promise<Buffer> {
  const opened = await SwarmBed.openWithThree(options);
  site = opened.site;
  return opened.image;
}

it('a WAN that is cut in the middle holds up what the site lacks, until it is back', async () => {
  const image = await openSite({ lanBytesPerS: 16 * MIB, wanBytesPerS: 2 * MIB });
  const id = await site.rollOut('1.0.0');
  await site.untilSiteHas(image, IMAGE_BYTES / 4, ...THREE);
  site.gateway.wan.cut();
  const before = site.gateway.wan.receivedBytes;
  await sleep(3000);
  site.gateway.wan.mend();
  await site.untilCompleted(id, THREE.length);
  for (const name of THREE) expect(await site.isRight(name, image)).toBe(true);
  expect(site.gateway.wan.receivedBytes - before).toBeLessThan(1.2 * IMAGE_BYTES);
});

it('peers that lie, hang, boast, trickle, babble or flood keep nobody from an update; the liar is reported', async () => {
  const image = await openSite();
  const token = (await readFile(site.bed.path('device.token'), 'utf8')).trim();
  const index = await indexOf();
  const manners: Manner[] = ['lies', 'hangs', 'boasts', 'trickles', 'babbles', 'oversized'];
  for (const manner of manners) {
    const peer = await HostilePeer.join(site.gateway.lan.url, token);
    hostile.push(peer);
    await peer.offer(index, manner);
  }
  const id = await site.rollOut('1.0.0');
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

it('a device that leaves in the middle leaves nothing undone', async () => {
  const image = await openSite();
  await site.rollOut('1.0.0');
  await site.untilSiteHas(image, IMAGE_BYTES / 3, ...THREE);
  await site.killDevice('three');
  for (const name of ['one', 'two']) {
    await site.untilSiteHas(image, IMAGE_BYTES, name);
    expect(await site.isRight(name, image)).toBe(true);
  }
});

it('a gateway that comes back with an empty disk fetches no more than the site still lacks: nothing, at last', async () => {
  const image = await openSite();
  const inAnHour = new Date(Date.now() + 3_600_000).toISOString();
  await site.rollOut('1.0.0', '--not-before', inAnHour);
  await site.untilSiteHas(image, IMAGE_BYTES / 2, ...THREE);
  await site.gateway.kill();
  const before = site.gateway.wan.receivedBytes;
  await site.gateway.restart({ isEmpty: true });
  for (const name of THREE) await site.untilSiteHas(image, IMAGE_BYTES, name);
  expect(site.gateway.wan.receivedBytes - before).toBeLessThan(0.75 * IMAGE_BYTES);
  // Once more, and nobody asks it for anything: what it fetches ahead comes from its devices.
  await site.gateway.kill();
  const whole = site.gateway.wan.receivedBytes;
  await site.gateway.restart({ isEmpty: true, prefetch: true });
  const { count } = ChunkIndex.decode(await indexOf());
  await site.bed.until(async () => (await site.gateway.found('siteDevice')) === count);
  expect(await site.gateway.found('upstream')).toBe(0);
  expect(site.gateway.wan.receivedBytes - whole).toBeLessThan(0.1 * IMAGE_BYTES);
});

it('a device is served by the others until it is revoked', async () => {
  await openSite();
  await site.untilCompleted(await site.rollOut('1.0.0'), THREE.length);
  const token = (await readFile(site.bed.path('device.token'), 'utf8')).trim();
  const peer = await HostilePeer.join(site.gateway.lan.url, token);
  hostile.push(peer);
  const chunk = ChunkIndex.decode(await indexOf()).idAt(0);
  const [other] = await peer.others();
  const address = other?.addresses[0] ?? '';
  expect((await peer.ask(address, chunk)).verify()).toBeDefined();
  await site.operate('device', 'revoke', peer.id);
  await site.bed.until(() =>
    peer.ask(address, chunk).then(
      () => false,
      () => true,
    ),
  );
});
