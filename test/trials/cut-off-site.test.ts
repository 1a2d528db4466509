import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { CutOffSite } from '../src/testbed/cut-off-site.ts';

const IMAGE_BYTES = 3_000_000;

let site: CutOffSite;
beforeAll(async () => {
  site = await CutOffSite.open();
});
afterAll(() => site.close());

/** Until the only device of a product has the image, and the origin has its reports. */
async function rollOut(product: string, image: Buffer): Promise<void> {
  await writeFile(site.testbed.path(product), image);
  const about = ['--product', product, '--version', '1.0.0', '--hardware', 'rpi4'];
  await site.operate('release', 'publish', product, ...about);
  const { id } = await site.operate('rollout', 'start', product, '1.0.0', '--all-at-once', '--soak', '0s');
  await site.testbed.until(async () => {
    const status = await site.operate('rollout', 'status', String(id));
    return status.state === 'completed' && status.total === 1;
  }, `the origin to have the reports of ${product}`);
}

it.each([
  ['with nothing but its neighbour’s address', 'named'],
  ['that finds its neighbour by multicast DNS', 'found'],
] as const)(
  'a site %s installs what was published since it was cut off, and its reports arrive',
  async (_what, way) => {
    const near = await site.addNear(`near-${way}`);
    const far = await site.addFar(`far-${way}`, way);
    const [program, ...args] = [...site.atSite, 'curl', '-s', '-m', '2', site.origin.url];
    expect(() => execFileSync(program, args)).toThrow('Command failed');
    const slots = ['a', 'b'].map(slot => site.testbed.path(`${way}-${slot}.img`));
    for (const slot of slots) await writeFile(slot, '');
    const kind = ['--join', '--kind', 'device', '--site', 'south', '--out', `${way}.token`];
    await site.operate('token', 'create', ...kind);
    const about = `--product ${way} --hardware rpi4 --token-file ${way}.token --poll 1s --log-level error --no-peers`;
    const command = `run --data device-${way} --gateway ${far.url} ${about} --slot-a ${slots[0]} --slot-b ${slots[1]}`;
    const agent = site.testbed.start('sitecast-agent', command.split(' '), { within: site.atSite });
    const image = randomBytes(IMAGE_BYTES);
    await rollOut(way, image);
    const held = await Promise.all(slots.map(slot => readFile(slot)));
    expect(held.some(bytes => bytes.equals(image))).toBe(true);
    for (const process of [agent, far, near]) await process.stop();
  },
);
