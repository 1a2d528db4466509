import { afterEach, expect, it } from 'vitest';
import { SwarmBed } from './bed/swarm-bed.ts';

const MIB = 2 ** 20;
const IMAGE_BYTES = 8 * MIB;
const LINK_BYTES_PER_S = 2 * MIB;

let site: SwarmBed;
afterEach(() => site.close());

it('an image crosses the thin link of its gateway about once, for all devices of the site', async () => {
  site = await SwarmBed.open(LINK_BYTES_PER_S);
  const image = await site.publish('1.0.0', IMAGE_BYTES);
  const names = ['one', 'two', 'three', 'four'];
  await Promise.all(names.map(name => site.startDevice(name)));
  const before = site.link.receivedBytes;
  const t=Date.now();
  const id = await site.rollOut('1.0.0');
  await site.untilCompleted(id, names.length);
  console.log('copies', (site.link.receivedBytes - before) / IMAGE_BYTES, Date.now()-t);
  for (const name of names) { console.log(site.outputOf(name)); expect((await site.slot(name, 'b')).equals(image)).toBe(true);}
  expect(site.link.receivedBytes - before).toBeLessThan(1.5 * IMAGE_BYTES);
});
