import { randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { z } from 'zod';
import { FleetTestbed } from './testbed/fleet-testbed.ts';
import { Filter } from './testbed/filter.ts';

// A device with `--deltas signed-only`: key holders sign a delta, offline, and the device uses that one alone. Real processes from the
// drafting operator to the slot.

const PRODUCT = 'camera';
const IMAGE_BYTES = 2 * 1024 * 1024;
/** Something changes in each chunk, so that chunks alone save nothing. */
const EVERY_BYTES = 8192;

let fleet: FleetTestbed;
let filter: Filter;
/** The paths that the device asked for. */
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

const at = (name: string) => fleet.testbed.path(name);

async function imageOf(version: string, from?: Buffer): Promise<Buffer> {
  const image = from ? Buffer.from(from) : randomBytes(IMAGE_BYTES);
  if (from)
    for (let place = 0; place < image.length; place += EVERY_BYTES)
      image.writeUInt32LE(Number.parseInt(version, 10) * 2 ** 24 + place, place);
  await writeFile(at(`image-${version}`), image);
  return image;
}

const about = (version: string) => {
  const named = ['--product', PRODUCT, '--version', version, '--hardware', 'rpi4'];
  return [`image-${version}`, ...named];
};

/** Rolls a release out to the device. @returns what its last report says that it has spent, in bytes; and how many chunks it asked for */
async function rollOut(version: string): Promise<{ spentBytes: number; chunks: number }> {
  asked = [];
  const { id } = await fleet.operate('rollout', 'start', PRODUCT, version, '--all-at-once', '--soak', '0s');
  await fleet.testbed.until(
    async () => (await fleet.status(String(id))).state === 'completed',
    `the rollout of ${version} to complete`,
  );
  const { devices } = devicesSchema.parse(await fleet.operate('device', 'list', '--product', PRODUCT));
  const { reports } = reportsSchema.parse(await fleet.operate('device', 'show', devices[0]?.id ?? ''));
  const last = reports.find(({ report }) => report.rollout?.id === id)?.report;
  const chunks = asked.filter(path => path.startsWith('/chunks/')).length;
  return { spentBytes: last?.transfer?.spentBytes ?? Number.NaN, chunks };
}

const devicesSchema = z.looseObject({ devices: z.array(z.looseObject({ id: z.string() })) });
const reportsSchema = z.looseObject({
  reports: z.array(
    z.looseObject({
      report: z.looseObject({
        rollout: z.looseObject({ id: z.string() }).optional(),
        transfer: z.looseObject({ spentBytes: z.number() }).optional(),
      }),
    }),
  ),
});

async function deltasTo(version: string): Promise<unknown[]> {
  const { deltas } = await fleet.operate('release', 'deltas', PRODUCT, version);
  return z.array(z.unknown()).parse(deltas);
}

const draft = (version: string, from: string) =>
  fleet.operate('release', 'draft', ...about(version), '--delta-from', from, '--out', `${version}.json`);

it('a device that demands it uses the delta that key holders have signed, and none of the online key', async () => {
  const first = await imageOf('1.0.0');
  await fleet.operate('release', 'publish', ...about('1.0.0'));
  await writeFile(at('token'), await fleet.joinToken('device', 'north'));
  for (const slot of ['a', 'b']) await writeFile(at(`${slot}.img`), '');
  const flags = `run --data device --gateway ${filter.url} --token-file token --product ${PRODUCT} --hardware rpi4 --slot-a a.img --slot-b b.img --poll 1s --log-level error --no-peers --deltas signed-only`;
  fleet.testbed.start('sitecast-agent', flags.split(' '));
  await rollOut('1.0.0');

  const second = await imageOf('2.0.0', first);
  await fleet.operate('release', 'publish', ...about('2.0.0'));
  await fleet.operate('release', 'deltas', PRODUCT, '2.0.0', '--from', '1.0.0');
  const isMade = async () => JSON.stringify(await deltasTo('2.0.0')).includes('"published"');
  await fleet.testbed.until(isMade, 'the delta of the online key');
  const byChunks = await rollOut('2.0.0');
  expect(asked.some(path => path.includes('.recipe'))).toBe(false);
  expect(byChunks.spentBytes).toBeGreaterThan(IMAGE_BYTES * 0.99);

  // Whoever drafts has no key. The key holder is shown what is to be signed.
  const third = await imageOf('3.0.0', second);
  await mkdir(at('no-keys'));
  const more = ['--delta-from', '2.0.0', '--keys', 'no-keys', '--out', '3.json'];
  const drafted = await fleet.operate('release', 'draft', ...about('3.0.0'), ...more);
  expect(drafted).toMatchObject({
    state: 'draft',
    deltas: [{ state: 'drafted', from: { version: '2.0.0' } }],
  });
  expect(await deltasTo('2.0.0')).toMatchObject([
    { state: 'published', by: expect.not.stringMatching('keys') },
  ]);
  const signed = await fleet.testbed.run('sitecast', ['release', 'sign', '3.json']);
  expect(signed.stderr).toMatch(/adds delta of camera from 2\.0\.0 to 3\.0\.0: 1 patched window/);
  await fleet.operate('release', 'submit', '3.json');
  expect(await deltasTo('3.0.0')).toMatchObject([{ state: 'published', signed: true, by: 'release keys' }]);

  const byDelta = await rollOut('3.0.0');
  const images = await Promise.all(['a', 'b'].map(slot => readFile(at(`${slot}.img`))));
  expect(images.some(image => image.equals(third))).toBe(true);
  expect(asked.some(path => path.includes('deltas/') && path.includes('camera-3-from-2.recipe'))).toBe(true);
  expect(byDelta.chunks).toBeLessThan(byChunks.chunks / 4);
  expect(byDelta.spentBytes).toBeLessThan(byChunks.spentBytes / 20);
});

it('key holders add deltas to a published release, and what they have signed goes when they sign that', async () => {
  await draft('3.0.0', '1.0.0');
  await fleet.operate('release', 'submit', '3.0.0.json');
  expect(await deltasTo('3.0.0')).toMatchObject([{ from: 2 }, { from: 1, signed: true }]);
  // Nothing is new: nothing is to be signed.
  expect(await draft('3.0.0', '1.0.0')).toMatchObject({ state: 'unchanged' });
  await fleet.operate('release', 'deltas', PRODUCT, '3.0.0', '--remove', '--from', '1.0.0');
  expect(await deltasTo('3.0.0')).toMatchObject([{ from: 2 }]);

  await imageOf('4.0.0', await readFile(at('image-3.0.0')));
  await fleet.operate('release', 'publish', ...about('4.0.0'));
  expect(await deltasTo('3.0.0')).toHaveLength(1);
  await rollOut('4.0.0');
  expect(await deltasTo('3.0.0')).toMatchObject([{ from: 2, over: true }]);
  // Nothing of this image is in the one before: a delta would cost no less than chunks, so it isn't signed.
  await imageOf('5.0.0');
  const drafted = await draft('5.0.0', '4.0.0');
  expect(drafted).toMatchObject({
    state: 'draft',
    deltas: [{ state: 'notWorth', from: { version: '4.0.0' } }],
  });
  await fleet.operate('release', 'submit', '5.0.0.json');
  expect(await deltasTo('5.0.0')).toEqual([]);
  expect(await deltasTo('3.0.0')).toEqual([]);
});
