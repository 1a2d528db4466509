import { randomBytes } from 'node:crypto';
import { open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { publishTestDelta } from '../testing/deltas.ts';
import { AgentHarness } from '../testing/harness.ts';

// Real files. Disk usage is counted in blocks, transfer in bytes.

/** Not a multiple of a block, so that holes begin and end within chunks. */
const CHUNK_BYTES = 65_636;
const HOLE_BYTES = 40_960;
const BLOCK_BYTES = 4096;
const ALL_ZERO = 6;
const WITH_HOLE = 10;

const solid = (): Buffer => randomBytes(CHUNK_BYTES);
const holed = (): Buffer => {
  const chunk = solid();
  return chunk.fill(0, 10_000, 10_000 + HOLE_BYTES);
};
const many = (count: number, make: () => Buffer): Buffer[] => Array.from({ length: count }, make);
const copied = many(4, holed);
const image1 = Buffer.concat([...copied, ...many(12, solid)]);
/** Four copied chunks, zeros, three chunks of a window, zeros, and three fetched chunks. Each chunk has a hole. */
const image2 = Buffer.concat([
  ...copied,
  Buffer.alloc(4 * CHUNK_BYTES),
  ...many(3, holed),
  Buffer.alloc(2 * CHUNK_BYTES),
  ...many(3, holed),
]);
const FETCHED_BYTES = 6 * (CHUNK_BYTES - HOLE_BYTES);
const DATA_BYTES = WITH_HOLE * (CHUNK_BYTES - HOLE_BYTES);

let harness: AgentHarness;
beforeEach(async () => {
  harness = await AgentHarness.open();
  const about = { chunkBytes: CHUNK_BYTES };
  const base = harness.fleet.addRelease({ counter: 1, image: image1, ...about });
  harness.fleet.addRollout(1);
  await harness.fleet.publishAll();
  await harness.device.cycle();
  const target = harness.fleet.addRelease({ counter: 2, image: image2, ...about });
  harness.fleet.addRollout(2);
  await harness.fleet.publishAll();
  await publishTestDelta(harness.fleet, { from: 1, to: 2, base, target, firsts: [8], chunkCount: 3 });
});
afterEach(() => harness.close());

/** A chunk takes at most one block more at each end of its data. */
const MOST_ON_DISK = DATA_BYTES + 4 * BLOCK_BYTES * WITH_HOLE;

it.each([
  ['a file that is as long as the image and holds nothing', async () => slotOfLength(image2.length)],
  ['a file that is longer', async () => slotOfLength(2 * image2.length)],
  ['an empty file', async () => slotOfLength(0)],
])('writes no zeros to %s, by copies, by windows and by chunks, and fetches none', async (_, prepare) => {
  await prepare();
  expect((await stat(slotA())).blocks).toBe(0);
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  expect(await harness.device.slot('A')).toEqual(image2);
  const { blocks } = await stat(slotA());
  expect(blocks * 512).toBeLessThanOrEqual(MOST_ON_DISK);
  expect(image2.length - DATA_BYTES).toBe(ALL_ZERO * CHUNK_BYTES + WITH_HOLE * HOLE_BYTES);
  const { spentBytes = Number.POSITIVE_INFINITY } = harness.reports.at(-1)?.transfer ?? {};
  // The tests' patches aren't compressed themselves, only their frames are; recipe and index of the patches are a few hundred bytes.
  expect(spentBytes).toBeLessThan(FETCHED_BYTES + 3 * HOLE_BYTES + 4096);
  expect(harness.gateway.requests.filter(line => line.includes('.cacnk')).length).toBeGreaterThan(0);
});

it('writes zeros where the slot holds something else', async () => {
  const slot = await open(slotA(), 'w');
  await slot.write(randomBytes(image2.length + 1_000_000), 0, undefined, 0);
  await slot.close();
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  expect(await harness.device.slot('A')).toEqual(image2);
});

const slotA = (): string => join(harness.device.directory, 'a.img');

async function slotOfLength(lengthBytes: number): Promise<void> {
  const slot = await open(slotA(), 'w');
  await slot.truncate(lengthBytes);
  await slot.close();
}
