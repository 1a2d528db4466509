import { afterAll, beforeAll, expect, it } from 'vitest';
import { IMAGE_BYTES, SwarmTestbed, THREE } from './testbed/swarm-testbed.ts';

let site: SwarmTestbed;
beforeAll(async () => {
  site = await SwarmTestbed.openWithThree(() => [], { gateways: 2 });
});
afterAll(() => site.close());

it('a killed gateway delays no device that has another, and is used again later', async () => {
  const { version, image } = await site.release();
  const [first, second] = site.gateways;
  const id = await site.rollOut(version);
  await site.untilSiteHas(image, IMAGE_BYTES / 4, ...THREE);
  await first?.kill();
  await site.untilCompleted(id, THREE.length);
  for (const name of THREE) expect(await site.isRight(name, image)).toBe(true);
  await first?.restart();
  second?.lan.cut();
  const next = await site.release();
  await site.untilCompleted(await site.rollOut(next.version), THREE.length);
});
