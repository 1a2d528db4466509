import { randomBytes } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { FleetTestbed } from './testbed/fleet-testbed.ts';

// A site whose devices run many releases: patches serve the devices of one release alone, chunks serve all.

const PRODUCT = 'camera';
const IMAGE_BYTES = 1024 * 1024;
const BLOCK_BYTES = 4096;
/** Of each block, what a release changes: a delta takes about that share of the image. */
const CHANGED = 0.4;
const VERSIONS = 4;
const DEVICES_EACH = 2;
const MAX_COPIES = 1.01;

let fleet: FleetTestbed;
const image = randomBytes(IMAGE_BYTES);
const bases = Array.from({ length: VERSIONS }, () => {
  const base = Buffer.from(image);
  for (let at = 0; at < IMAGE_BYTES; at += BLOCK_BYTES)
    randomBytes(Math.round(CHANGED * BLOCK_BYTES)).copy(base, at);
  return base;
});
const versionOf = (at: number) => `${at + 1}.0.0`;
const NEXT = versionOf(VERSIONS);
const devices = bases.flatMap((_, at) =>
  Array.from({ length: DEVICES_EACH }, (_unused, number) => ({ name: `device-${at}-${number}`, runs: at })),
);
const at = (file: string) => fleet.testbed.path(file);

beforeAll(async () => {
  fleet = await FleetTestbed.open(['north']);
  for (const [number, bytes] of [...bases, image].entries()) {
    await writeFile(at(`image-${number}`), bytes);
    const about = ['--product', PRODUCT, '--version', versionOf(number), '--hardware', 'rpi4'];
    await fleet.operate('release', 'publish', `image-${number}`, ...about);
  }
});
afterAll(() => fleet.close());

async function start({ name, runs }: (typeof devices)[number]): Promise<void> {
  await writeFile(at(`${name}-token`), await fleet.joinToken('device', 'north', 1));
  await writeFile(at(`${name}-a.img`), bases[runs] ?? '');
  const words = `run --data ${name} --gateway ${fleet.site('north').url} --product ${PRODUCT} --hardware rpi4`;
  const more = `--factory-release ${runs + 1}:${versionOf(runs)} --poll 1s --log-level error --no-peers`;
  const paths = [`--slot-a=${at(`${name}-a.img`)}`, `--slot-b=${at(`${name}-b.img`)}`];
  const token = `--token-file=${at(`${name}-token`)}`;
  fleet.testbed.start('sitecast-agent', [...words.split(' '), ...more.split(' '), ...paths, token]);
}

/** Bytes of chunks and patches that came over the WAN of the site; and of signed files, such as recipes and indexes. */
async function wanBytes(): Promise<{ chunks: number; targets: number }> {
  const text = await (await fetch(`${fleet.site('north').url}/metrics`)).text();
  const of = (kind: string) =>
    Number(
      new RegExp(`^sitecast_wan_received_bytes_total\\{kind="${kind}"[^}]*\\} (\\d+)`, 'm').exec(text)?.[1] ??
        0,
    );
  return { chunks: of('chunks'), targets: of('targets') };
}

it('costs the WAN about one image where all plans by deltas together cost more', async () => {
  for (const device of devices) await start(device);
  const heard = async () => {
    const found = await fleet.operate('device', 'list');
    const text = JSON.stringify(found);
    return text.split('"booted":{').length - 1 === devices.length;
  };
  await fleet.testbed.until(heard, 'all devices to report what they run');
  for (const number of bases.keys())
    await fleet.operate('release', 'deltas', PRODUCT, NEXT, '--from', versionOf(number));
  let plansBytes = 0;
  await fleet.testbed.until(async () => {
    const { deltas } = await fleet.operate('release', 'deltas', PRODUCT, NEXT);
    const made = Array.isArray(deltas) ? deltas.filter(({ state }) => state === 'published') : [];
    plansBytes = made.reduce((sum, { bytes }) => sum + Number(bytes), 0);
    return made.length === VERSIONS;
  }, 'the deltas to be made');
  expect(plansBytes).toBeGreaterThan(1.5 * IMAGE_BYTES);

  const before = await wanBytes();
  const { id } = await fleet.operate('rollout', 'start', PRODUCT, NEXT, '--all-at-once', '--soak', '0s');
  await fleet.testbed.until(async () => {
    const status = await fleet.status(String(id));
    return status.state === 'completed' && status.total === devices.length;
  }, 'the rollout to complete');
  for (const { name } of devices) {
    expect((await stat(at(`${name}-b.img`))).size).toBe(IMAGE_BYTES);
    expect((await readFile(at(`${name}-b.img`))).equals(image)).toBe(true);
  }
  const after = await wanBytes();
  const chunkBytes = after.chunks - before.chunks;
  expect(chunkBytes).toBeGreaterThan(0.99 * IMAGE_BYTES);
  expect(chunkBytes).toBeLessThan(MAX_COPIES * IMAGE_BYTES);
  // Rollouts and products are among them: they don't grow with the image.
  expect(after.targets - before.targets).toBeLessThan(50_000);
});
