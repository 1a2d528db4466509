// A site whose devices and gateway are of different builds: commit 51397eb's exchange chunks over streams alone, this checkout's over plain
// HTTP where both sides can.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { unpackReleased } from './testbed/released.ts';
import { IMAGE_BYTES, SwarmTestbed } from './testbed/swarm-testbed.ts';

const BUILDS = { 'released-1': 'released', 'released-2': 'released', current: 'current' } as const;
const NAMES = Object.keys(BUILDS);
const MIB = 2 ** 20;
/** What a device gets from others where both take part. */
const SOME_BYTES = 0.2 * IMAGE_BYTES;

let site: SwarmTestbed;
let bin: string;
beforeAll(async () => {
  site = await SwarmTestbed.open({ lanBytesPerS: MIB });
  bin = await unpackReleased(site.testbed.path('released'));
  for (const [name, build] of Object.entries(BUILDS)) {
    if (build === 'released') site.setBuild(name, { bin });
    await site.startDevice(name);
  }
});
afterAll(() => site.close());

/** @returns bytes that each device received from others, and what the gateway sent, meanwhile */
async function update(): Promise<{ received: number[]; sent: number; image: Buffer }> {
  const { version, image } = await site.release();
  const counts = () =>
    Promise.all(NAMES.map(async name => (await site.statusOf(name))?.peers?.receivedBytes ?? 0));
  const [before, sentBefore] = [await counts(), site.gateway.lan.receivedBytes];
  await site.untilCompleted(await site.rollOut(version), NAMES.length);
  let received: number[] = [];
  // An agent stores its exchanged bytes from time to time.
  await site.testbed.until(async () => {
    received = (await counts()).map((bytes, at) => bytes - (before[at] ?? 0));
    return received.every(bytes => bytes > SOME_BYTES);
  }, 'all to have received chunks from others');
  for (const name of NAMES) expect(await site.isRight(name, image)).toBe(true);
  return { received, sent: site.gateway.lan.receivedBytes - sentBefore, image };
}

it.each([
  ['of this build', false],
  ['that was released', true],
])('devices of both builds swap chunks behind a gateway %s', async (_, isReleased) => {
  if (isReleased) {
    await site.gateway.kill();
    await site.gateway.restart({ bin });
  }
  const { sent } = await update();
  expect(sent).toBeLessThan(1.6 * IMAGE_BYTES);
});

it('a gateway with an empty disk gets chunks from devices, where either side was released', async () => {
  const { version, image } = await site.release();
  await site.rollOut(version, '--not-before', new Date(Date.now() + 3_600_000).toISOString());
  for (const name of NAMES) await site.untilSiteHas(image, IMAGE_BYTES, name);
  for (const [holder, gateway] of [
    ['released-1', {}],
    ['current', {}],
    ['current', { bin }],
  ] as const) {
    for (const name of NAMES) if (name !== holder) await site.killDevice(name);
    await site.gateway.kill();
    await site.gateway.restart({ isEmpty: true, prefetch: true, ...gateway });
    await site.testbed.until(
      async () => (await site.gateway.found('siteDevice')) > 20,
      `chunks to come from ${holder}`,
    );
    for (const name of NAMES) if (name !== holder) await site.startDevice(name);
  }
  expect(await site.isRight('current', image)).toBe(true);
});
