import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { SwarmTestbed } from './testbed/swarm-testbed.ts';

const MIB = 2 ** 20;

let site: SwarmTestbed;
beforeAll(async () => {
  site = await SwarmTestbed.openWithThree(() => [], { lanBytesPerS: 16 * MIB });
});
afterAll(() => site.close());

it('a device that was off has the release in its slot, verified, with one updated neighbour and no gateway', async () => {
  const first = await site.release();
  const before = await site.rollOut(first.version);
  await site.untilCompleted(before, 3);
  // Whom the gateway has named is noted for the next start.
  const { id: neighbour = '' } = (await site.statusOf('one')) ?? {};
  await site.testbed.until(async () => {
    const noted = await readFile(site.testbed.path('two', 'peers.json'), 'utf8').catch(() => '');
    return noted.includes(neighbour);
  }, 'two to know of one');
  for (const name of ['two', 'three']) await site.killDevice(name);
  // Published while they are off: of this release they know nothing, neither metadata nor manifest nor index.
  const { version, image } = await site.release();
  const id = await site.rollOut(version);
  await site.untilCompleted(id, 1);
  site.gateway.lan.cut();
  const refused = site.gateway.lan.refused;
  await site.startDevice('two');
  await site.testbed.until(async () => (await site.statusOf('two'))?.waitingFor === 'lease', 'two to wait');
  expect(await site.isRight('two', image)).toBe(true);
  expect(await site.statusOf('two')).toMatchObject({
    state: 'waiting',
    update: { phase: 'verified', release: { version } },
    message: expect.stringContaining('nobody hands out leases'),
  });
  // It has asked its gateway, in vain.
  expect(site.gateway.lan.refused).toBeGreaterThan(refused);
  site.gateway.lan.mend();
  await site.untilCompleted(id, 2);
});
