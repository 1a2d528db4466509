import { open, writeFile } from 'node:fs/promises';
import { formatBytes, plural } from '@sitecast/shared/text';
import { type DemoFleet, DEVICES_PER_SITE, PRODUCT, SITES } from './fleet.ts';
import { readFirmware } from './firmware.ts';
import type { Narrator } from './narrator.ts';

export const BROKEN_VERSION = '0.29.0-broken';
/** How long the devices are watched after the broken release, to see that they don't try it again. */
const WATCH_MS = 3000;

/** The whole demo, in order. @throws where something doesn't come true in time */
export async function tellStory(fleet: DemoFleet, narrator: Narrator): Promise<void> {
  narrator.chapter('An origin, two sites, six devices');
  await fleet.startOrigin();
  await fleet.found();
  narrator.say(`origin   ${fleet.originUrl}, founded with one root key and one release key`);
  for (const site of SITES) {
    await fleet.startGateway(site);
    narrator.say(`gateway  at site ${site}, let in by its join token`);
    await fleet.startDevices(site);
  }
  const wanted = SITES.length * DEVICES_PER_SITE;
  await fleet.waitFor(
    'the devices to enrol',
    () => fleet.enrolledDevices(),
    count => count === wanted,
  );
  narrator.say(`devices  ${wanted} enrolled through their gateways`);

  for (const alias of ['firmware-v1', 'firmware-v2'] as const) {
    const { version, path } = readFirmware(alias);
    narrator.chapter(`Release ${version}: a real program`);
    await publish(fleet, narrator, path, version);
    await rollOut(fleet, narrator, version, 'completed');
  }

  narrator.chapter(`Release ${BROKEN_VERSION}: the same program, cut in half`);
  await publish(fleet, narrator, await cutInHalf(fleet), BROKEN_VERSION);
  await rollOut(fleet, narrator, BROKEN_VERSION, 'rolledBack');
  narrator.say('every device found it unhealthy, fell back by itself, and reported it');
  await new Promise(resolve => setTimeout(resolve, WATCH_MS));
}

async function publish(fleet: DemoFleet, narrator: Narrator, path: string, version: string): Promise<void> {
  const { upload } = await fleet.publish(path, version);
  const { chunks, newChunks, sentBytes } = JSON.parse(JSON.stringify(upload));
  narrator.say(
    `publish  ${PRODUCT} ${version}: ${plural(newChunks, 'new chunk')} of ${chunks}, ${formatBytes(sentBytes)} sent`,
  );
}

async function rollOut(fleet: DemoFleet, narrator: Narrator, version: string, ending: string): Promise<void> {
  // Every device is to show its fall back: else the rollout would stop itself at the first.
  const id = await fleet.startRollout(version, '--max-failures', '100%');
  narrator.say(`rollout  ${id} started, for all devices at once`);
  let shown = '';
  await fleet.waitFor(
    `all devices to be ${ending} with ${version}`,
    async () => {
      const status = await fleet.rollout(id);
      const line = Object.entries(status.counts)
        .filter(([, count]) => count > 0)
        .map(([state, count]) => `${count} ${state}`)
        .join(', ');
      if (line !== shown) narrator.say(`rollout  ${line}`);
      shown = line;
      return status;
    },
    ({ counts, total }) => total > 0 && counts[ending] === total,
  );
}

async function cutInHalf(fleet: DemoFleet): Promise<string> {
  const { path } = readFirmware('firmware-v2');
  const source = await open(path, 'r');
  try {
    const { size } = await source.stat();
    const half = Buffer.alloc(Math.floor(size / 2));
    await source.read(half, 0, half.length, 0);
    const broken = fleet.testbed.path('broken.bin');
    await writeFile(broken, half);
    return broken;
  } finally {
    await source.close();
  }
}
