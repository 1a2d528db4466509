import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { FleetTestbed } from './testbed/fleet-testbed.ts';
import { Filter } from './testbed/filter.ts';

// What a release costs a device that is killed again and again, as the real gateway has served it.

const PRODUCT = 'camera';
/** What doesn't change lies between them, so that each gets a patch of its own. */
const REGIONS = 8;
const KEPT_BYTES = 256 * 1024;
const PATCHED_BYTES = 64 * 1024;
const NEW_BYTES = 64 * 1024;
const EVERY_BYTES = 8192;
/** Twice what the plan takes: patches, some of which are lost on their way at each kill. */
const MAX_BYTES = 1024 * 1024;
const MAX_STARTS = 20;
/** Some requests are under way by then. */
const KILLED_AT = 4;

let fleet: FleetTestbed;
let filter: Filter;
let servedBytes = 0;

beforeAll(async () => {
  fleet = await FleetTestbed.open(['north']);
  filter = await Filter.open(fleet.site('north').url);
  filter.onPassed = ({ path, lengthBytes }) => {
    if (/\.(cacnk|caibx|recipe)$/.test(path)) servedBytes += lengthBytes;
  };
});
afterAll(async () => {
  filter.close();
  await fleet.close();
});

const at = (name: string) => fleet.testbed.path(name);

async function publish(version: string, image: Buffer): Promise<void> {
  await writeFile(at(`image-${version}`), image);
  const about = ['--product', PRODUCT, '--version', version, '--hardware', 'rpi4'];
  await fleet.operate('release', 'publish', `image-${version}`, ...about);
}

function update(killAt: string | undefined, ...more: string[]) {
  const settings = `update --data device --gateway ${filter.url} --product ${PRODUCT} --hardware rpi4 --poll 1s --log-level error --no-peers --concurrency 2`;
  const paths = ['--token-file', at('token'), '--slot-a', at('a.img'), '--slot-b', at('b.img')];
  const env = killAt === undefined ? {} : { SITECAST_TEST_KILL_AT: killAt };
  return fleet.testbed.run('sitecast-agent', [...settings.split(' '), ...paths, ...more], { env });
}

it('is no more than --max-bytes, all starts together; and the device says so where it is not enough', async () => {
  const regionBytes = KEPT_BYTES + PATCHED_BYTES + NEW_BYTES;
  const first = randomBytes(REGIONS * regionBytes);
  const second = Buffer.from(first);
  for (let start = KEPT_BYTES; start < second.length; start += regionBytes) {
    for (let offset = 0; offset < PATCHED_BYTES; offset += EVERY_BYTES)
      second.writeUInt32LE(offset, start + offset);
    randomBytes(NEW_BYTES).copy(second, start + PATCHED_BYTES);
  }
  await writeFile(at('token'), await fleet.joinToken('device', 'north'));
  for (const slot of ['a', 'b']) await writeFile(at(`${slot}.img`), '');
  await publish('1.0.0', first);
  await fleet.operate('rollout', 'start', PRODUCT, '1.0.0', '--all-at-once', '--soak', '0s');
  expect(await update(undefined)).toMatchObject({ exitCode: 0, stdout: 'completed\n' });

  await publish('2.0.0', second);
  await fleet.operate('release', 'deltas', PRODUCT, '2.0.0', '--from', '1.0.0');
  await fleet.testbed.until(async () => {
    const { deltas } = await fleet.operate('release', 'deltas', PRODUCT, '2.0.0');
    return Array.isArray(deltas) && deltas.at(-1)?.state === 'published';
  }, 'the delta to be made');
  const { id: rolloutId } = await fleet.operate(
    'rollout',
    'start',
    PRODUCT,
    '2.0.0',
    '--all-at-once',
    '--soak',
    '0s',
  );
  const rollout = String(rolloutId);
  servedBytes = 0;

  // Too little from the beginning: nothing is fetched but signed files, and an operator sees what it waits for.
  const little = ['--max-bytes=300000'];
  const waiting = /waiting \(for a higher bound on bytes\): .*--max-bytes .*\(SITECAST_PLAN_TOO_LARGE\)\n$/;
  expect(await update(undefined, ...little)).toMatchObject({
    exitCode: 0,
    stdout: expect.stringMatching(waiting),
  });
  expect(servedBytes).toBeLessThan(50_000);
  const { devices } = await fleet.operate('device', 'list');
  const id: unknown = Array.isArray(devices) ? devices[0]?.id : undefined;
  const said = async (...args: string[]) => (await fleet.testbed.run('sitecast', args)).stdout;
  await fleet.testbed.until(
    async () => /state +waiting\n *why +.*--max-bytes/.test(await said('device', 'show', String(id))),
    'the reason to reach the origin',
  );
  expect(await said('rollout', 'status', rollout)).toMatch(/ waiting .*--max-bytes .*SITECAST_/);

  // Killed while patches are on their way: what was sent by then is lost, and counts.
  let kills = 0;
  let last: Awaited<ReturnType<typeof update>>;
  do {
    last = await update(`spending.json after#${KILLED_AT}`, `--max-bytes=${MAX_BYTES}`);
    expect(servedBytes).toBeLessThanOrEqual(MAX_BYTES);
    kills += last.signal === 'SIGKILL' ? 1 : 0;
  } while (last.signal === 'SIGKILL' && kills < MAX_STARTS);
  expect(last).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/^completed|--max-bytes/) });
  // What was on its way when it was killed counts in full: on a busy machine that's most of it, and one kill is enough.
  expect(kills).toBeGreaterThan(0);

  const { stdout } = await update(undefined, `--max-bytes=${4 * MAX_BYTES}`);
  expect(['completed\n', 'idle\n']).toContain(stdout);
  expect(servedBytes).toBeGreaterThan(REGIONS * NEW_BYTES);
  // What it was to cost, and has cost, in one form at the device, of the device and in its rollout.
  const costs = /planned [\d.]+ [KM]iB, spent [\d.]+ [KM]iB/;
  const shown = await fleet.testbed.run('sitecast-agent', ['status', '--data', 'device']);
  expect(shown.stdout).toMatch(new RegExp(`^bytes +2\\.0\\.0 from gateways: ${costs.source}`, 'm'));
  await fleet.testbed.until(
    async () => new RegExp(`completed .*${costs.source}`).test(await said('rollout', 'status', rollout)),
    'the costs to reach the origin',
  );
  expect(await said('device', 'show', String(id))).toMatch(
    new RegExp(`^bytes +2\\.0\\.0 \\(2\\) from gateways: ${costs.source}$`, 'm'),
  );
  const images = await Promise.all(['a', 'b'].map(slot => readFile(at(`${slot}.img`))));
  expect(images.some(image => image.equals(second))).toBe(true);
});
