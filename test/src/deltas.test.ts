import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { FleetTestbed } from './testbed/fleet-testbed.ts';
import { Filter } from './testbed/filter.ts';

// A device that runs a release gets the next one by a delta: real processes from the publisher to the slot.

const PRODUCT = 'camera';
const IMAGE_BYTES = 6 * 1024 * 1024;
/** Something changes in each chunk, so that chunks alone save nothing. */
const EVERY_BYTES = 8192;

let fleet: FleetTestbed;
let filter: Filter;
/** Bodies of chunks that came through the filter, in bytes, and the paths that were asked for. */
let asked: string[] = [];

beforeAll(async () => {
  fleet = await FleetTestbed.open(['north']);
  filter = await Filter.open(fleet.site('north').url);
  filter.rule = ({ path }) => {
    asked.push(path);
    return 'pass';
  };
});
afterAll(async () => {
  filter.close();
  await fleet.close();
});

function rebuilt(image: Buffer, version: number): Buffer {
  const next = Buffer.from(image);
  for (let at = 0; at < next.length; at += EVERY_BYTES) next.writeUInt32LE(version * 2 ** 20 + at, at);
  return next;
}

async function publish(version: string, image: Buffer, ...more: string[]): Promise<void> {
  await writeFile(fleet.testbed.path(`image-${version}`), image);
  const about = ['--product', PRODUCT, '--version', version, '--hardware', 'rpi4'];
  await fleet.operate('release', 'publish', `image-${version}`, ...about, ...more);
}

async function rollOut(version: string): Promise<void> {
  const { id } = await fleet.operate('rollout', 'start', PRODUCT, version, '--all-at-once', '--soak', '0s');
  await fleet.testbed.until(
    async () => (await fleet.status(String(id))).state === 'completed',
    `the rollout of ${version} to complete`,
  );
}

async function deltaState(version: string): Promise<unknown> {
  const { deltas } = await fleet.operate('release', 'deltas', PRODUCT, version);
  return Array.isArray(deltas) ? deltas.at(-1)?.state : undefined;
}

it('a device makes the next image from the one that it runs, and fetches patches', async () => {
  const first = randomBytes(IMAGE_BYTES);
  const second = rebuilt(first, 1);
  await publish('1.0.0', first);
  const at = (name: string) => fleet.testbed.path(name);
  await writeFile(at('token'), await fleet.joinToken('device', 'north'));
  for (const slot of ['a', 'b']) await writeFile(at(`${slot}.img`), '');
  fleet.testbed.start(
    'sitecast-agent',
    `run --data device --gateway ${filter.url} --token-file ${at('token')} --product ${PRODUCT} --hardware rpi4 --slot-a ${at('a.img')} --slot-b ${at('b.img')} --poll 1s --log-level error --no-peers`.split(
      ' ',
    ),
  );
  await rollOut('1.0.0');

  await publish('2.0.0', second);
  await fleet.operate('release', 'deltas', PRODUCT, '2.0.0', '--from', '1.0.0');
  await fleet.testbed.until(async () => (await deltaState('2.0.0')) === 'published', 'the delta to be made');
  asked = [];
  await rollOut('2.0.0');

  const images = await Promise.all(['a', 'b'].map(slot => readFile(at(`${slot}.img`))));
  expect(images.some(image => image.equals(second))).toBe(true);
  const chunks = asked.filter(path => path.startsWith('/chunks/'));
  // About 80 chunks make up the image; its patches fit into a few.
  expect(chunks.length).toBeGreaterThan(0);
  expect(chunks.length).toBeLessThan(10);
  expect(asked.some(path => path.includes('.recipe'))).toBe(true);
  // The index comes with the recipe.
  expect(asked.some(path => /releases.*camera-2\.caibx$/.test(path))).toBe(false);
});
