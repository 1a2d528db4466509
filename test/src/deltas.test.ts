import { randomBytes } from 'node:crypto';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { sleep } from '@sitecast/shared/async';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { FleetTestbed } from './testbed/fleet-testbed.ts';
import { Filter } from './testbed/filter.ts';

// Devices that run a release get the next one by a delta: real processes from the publisher to the slot.

const PRODUCT = 'camera';
const IMAGE_BYTES = 6 * 1024 * 1024;
/** Something changes in each chunk, so that chunks alone save nothing. */
const EVERY_BYTES = 8192;
/** What an image costs: its index, recipe, patch index and chunks. */
const IS_CONTENT = /\/chunks\/|\.recipe|\.caibx/;

/** A device, with all that it asked its gateway for. */
interface WatchedDevice {
  name: string;
  filter: Filter;
  asked: { path: string; lengthBytes: number }[];
}

let fleet: FleetTestbed;
let byDeltas: WatchedDevice;
/** It has deltas switched off. */
let byChunks: WatchedDevice;
const images: Buffer[] = [];

beforeAll(async () => {
  fleet = await FleetTestbed.open(['north']);
  images.push(randomBytes(IMAGE_BYTES));
  await publish('1.0.0');
  byDeltas = await start('device');
  byChunks = await start('plain', '--deltas', 'off');
  await rollOut('1.0.0', 2);
});
afterAll(async () => {
  for (const { filter } of [byDeltas, byChunks]) filter.close();
  await fleet.close();
});

async function start(name: string, ...more: string[]): Promise<WatchedDevice> {
  const filter = await Filter.open(fleet.site('north').url);
  const device: WatchedDevice = { name, filter, asked: [] };
  filter.onPassed = answer => device.asked.push(answer);
  const at = (file: string) => fleet.testbed.path(`${name}-${file}`);
  await writeFile(at('token'), await fleet.joinToken('device', 'north', 1));
  for (const slot of ['a', 'b']) await writeFile(at(`${slot}.img`), '');
  fleet.testbed.start('sitecast-agent', [
    ...`run --data ${name} --gateway ${filter.url} --token-file ${at('token')} --product ${PRODUCT} --hardware rpi4`.split(
      ' ',
    ),
    ...`--slot-a ${at('a.img')} --slot-b ${at('b.img')} --poll 1s --log-level error --no-peers`.split(' '),
    ...more,
  ]);
  return device;
}

/** Publishes the newest image. */
async function publish(version: string): Promise<void> {
  await writeFile(fleet.testbed.path(`image-${version}`), images.at(-1) ?? '');
  const about = ['--product', PRODUCT, '--version', version, '--hardware', 'rpi4'];
  await fleet.operate('release', 'publish', `image-${version}`, ...about);
}

async function publishNext(version: string): Promise<Buffer> {
  const next = Buffer.from(images.at(-1) ?? '');
  for (let at = 0; at < next.length; at += EVERY_BYTES) next.writeUInt32LE(images.length * 2 ** 20 + at, at);
  images.push(next);
  await publish(version);
  return next;
}

async function rollOut(version: string, devices: number): Promise<void> {
  const { id } = await fleet.operate('rollout', 'start', PRODUCT, version, '--all-at-once', '--soak', '0s');
  await fleet.testbed.until(async () => {
    const status = await fleet.status(String(id));
    return status.state === 'completed' && status.total === devices;
  }, `the rollout of ${version} to complete`);
}

interface DeltaAnswer {
  deltas: {
    from: number;
    to: number;
    state: string;
    bytes?: number;
    chunkBytes?: number;
    endedAt?: string;
  }[];
  cost: Cost;
}
interface Cost {
  from: {
    devices: number;
    by: string;
    bytes: number;
    isEstimate: boolean;
    others?: { devices: number; by: string; bytes: number }[];
  }[];
  sites: { mostBytes: number; allBytes: number; isEstimate: boolean };
}

async function deltasTo(version: string): Promise<DeltaAnswer> {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the schema is the origin's own
  return (await fleet.operate('release', 'deltas', PRODUCT, version)) as unknown as DeltaAnswer;
}

const bytesOf = ({ asked }: WatchedDevice): number =>
  asked.filter(({ path }) => IS_CONTENT.test(path)).reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);

async function slotsOf({ name }: WatchedDevice): Promise<Buffer[]> {
  return await Promise.all(['a', 'b'].map(slot => readFile(fleet.testbed.path(`${name}-${slot}.img`))));
}

/** Bytes of indexes, recipes, patches and chunks that came over the WAN of the site. */
async function wanBytes(): Promise<number> {
  const text = await (await fetch(`${fleet.site('north').url}/metrics`)).text();
  const found = [...text.matchAll(/^sitecast_wan_received_bytes_total\{kind="(\w+)"[^}]*\} (\d+)/gm)];
  return found.reduce(
    (sum, [, kind, bytes]) => sum + (kind === 'chunks' || kind === 'targets' ? Number(bytes) : 0),
    0,
  );
}

it('devices fetch what the dry run has said: by patches, or by chunks where they use no deltas', async () => {
  const second = await publishNext('2.0.0');
  await fleet.operate('release', 'deltas', PRODUCT, '2.0.0', '--from', '1.0.0');
  await fleet.testbed.until(
    async () => (await deltasTo('2.0.0')).deltas.at(-1)?.state === 'published',
    'the delta to be made',
  );
  const { cost } = await fleet.operate('rollout', 'start', PRODUCT, '2.0.0', '--all-at-once', '--dry-run');
  const listed = await deltasTo('2.0.0');
  expect(cost).toEqual(listed.cost);
  const [from] = listed.cost.from;
  expect(from).toMatchObject({
    devices: 2,
    by: 'delta',
    isEstimate: false,
    others: [{ devices: 1, by: 'chunks' }],
  });
  expect(listed.deltas).toMatchObject([{ from: 1, to: 2, fromVersion: '1.0.0', toVersion: '2.0.0' }]);
  for (const device of [byDeltas, byChunks]) device.asked = [];
  const before = await wanBytes();
  await rollOut('2.0.0', 2);

  for (const device of [byDeltas, byChunks])
    expect((await slotsOf(device)).some(image => image.equals(second))).toBe(true);
  // A patch comes in a frame, which adds some bytes.
  expect(bytesOf(byDeltas) / (from?.bytes ?? 0)).toBeCloseTo(1, 2);
  expect(bytesOf(byChunks) / (from?.others?.[0]?.bytes ?? 0)).toBeCloseTo(1, 1);
  expect(listed.deltas[0]?.bytes).toBe(bytesOf(byDeltas));
  expect((listed.deltas[0]?.chunkBytes ?? 0) / bytesOf(byChunks)).toBeCloseTo(1, 2);
  // Manifests are not counted beforehand.
  const overWan = (await wanBytes()) - before;
  expect(overWan).toBeGreaterThan(0.9 * Math.min(listed.cost.sites.mostBytes, IMAGE_BYTES));
  expect(overWan).toBeLessThan(1.02 * listed.cost.sites.mostBytes + 4096);
  // The index comes with the recipe.
  const indexes = byDeltas.asked.filter(({ path }) => /releases.*camera-2\.caibx$/.test(path));
  expect(indexes).toEqual([]);
});

it('an origin that is killed while it makes a delta goes on after the last finished window', async () => {
  const third = await publishNext('3.0.0');
  await fleet.operate('release', 'deltas', PRODUCT, '3.0.0', '--from', '2.0.0');
  const folder = fleet.testbed.path('origin/deltas');
  /** The files of finished windows, and when each was written. */
  const written = new Map<string, Set<number>>();
  const look = async (): Promise<void> => {
    for (const name of await readdir(folder)) {
      if (!name.endsWith('.window')) continue;
      const found = await stat(`${folder}/${name}`).catch(() => undefined);
      if (found) written.set(name, (written.get(name) ?? new Set()).add(found.mtimeMs));
    }
  };
  while (written.size === 0) {
    await look();
    await sleep(10);
  }
  await fleet.restartOrigin(0);
  const finished = [...written.keys()];
  let state: string | undefined;
  while (state !== 'published') {
    await look();
    state = (await deltasTo('3.0.0')).deltas.at(-1)?.state;
    expect(state).not.toBe('failed');
  }
  expect(finished.map(name => written.get(name)?.size)).toEqual(finished.map(() => 1));
  const isDone = async () => !(await readdir(folder)).some(name => name.endsWith('.window'));
  await fleet.testbed.until(isDone, 'the windows to go');
  await rollOut('3.0.0', 2);
  expect((await slotsOf(byDeltas)).some(image => image.equals(third))).toBe(true);
});
