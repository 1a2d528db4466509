import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Failpoint } from '../adapters/failpoints.ts';
import { TestDevice } from '../testing/device.ts';
import { AgentHarness } from '../testing/harness.ts';
import { powerCutAt, untilPowerCut } from '../testing/power-cut.ts';

// The power fails at failpoints of an update that copies chunks from both slots.

const CHUNK_BYTES = 4000;
const pieces = (count: number) => Array.from({ length: count }, () => randomBytes(CHUNK_BYTES));
const [older, newer, added] = [pieces(12), pieces(6), pieces(2)];
const images = [
  Buffer.concat(older),
  Buffer.concat(newer),
  // Chunks of the slot that is written (some of them exchange their places), chunks of the booted slot, zeros, and two chunks that no slot
  // has.
  Buffer.concat([...older.slice(6), ...older.slice(0, 6), ...newer, Buffer.alloc(3 * CHUNK_BYTES), ...added]),
];
const [, , image = Buffer.alloc(0)] = images;

/** Of the many chunks that are copied in the same way, every third. */
const PLACE_STEP = 3;

let harness: AgentHarness;

beforeAll(async () => {
  harness = await AgentHarness.open();
  for (const [at, each] of images.entries()) {
    harness.fleet.addRelease({ counter: at + 1, image: each, chunkBytes: CHUNK_BYTES });
    harness.fleet.addRollout(at + 1);
    await harness.fleet.publishAll();
    if (at < 2) await harness.device.cycle();
  }
  await harness.device.close();
});
afterAll(async () => {
  await harness.close();
});

async function update(failpoint: Failpoint) {
  const device = await TestDevice.copyOf(harness.device, [harness.gateway.url]);
  harness.gateway.requests.length = 0;
  const isCut = await untilPowerCut(async () => {
    await device.open({ failpoint });
    await device.cycle();
  });
  if (isCut) {
    await device.close({ isCut: true });
    await device.open();
    await device.cycle();
  }
  const isRight = (await device.slot('B')).equals(image);
  await device.cycle();
  const { booted } = await device.parts.boot.read();
  await device.remove();
  const chunks = harness.gateway.requests.filter(line => line.includes('/chunks/'));
  return { isCut, isRight, booted, chunks: chunks.length };
}

it('survives a power cut at each failpoint, and fetches only the chunks that no slot has and the one that was held in memory', async () => {
  const reached: string[] = [];
  const counts = new Map<string, number>();
  const whole = await update(name => {
    counts.set(name, (counts.get(name) ?? 0) + 1);
    reached.push(`${name}#${counts.get(name)}`);
  });
  expect(whole).toEqual({ isCut: false, isRight: true, booted: 'B', chunks: added.length });
  const places = reached.filter(where => /^(chunk|slot)/.test(where));
  expect(places.length).toBeGreaterThan(40);
  for (const where of places.filter((_where, at) => at % PLACE_STEP === 0)) {
    const { chunks, ...found } = await update(powerCutAt(where));
    expect({ where, ...found }).toEqual({ where, isCut: true, isRight: true, booted: 'B' });
    // One chunk was held in memory, and up to `concurrency` were on their way, when the power failed.
    expect(chunks).toBeLessThanOrEqual(added.length + 1 + added.length);
  }
});
