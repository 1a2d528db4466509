import { createHash, randomBytes } from 'node:crypto';
import { open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AgentHarness } from '../testing/harness.ts';

const CHUNK_BYTES = 10_000;
const CHUNKS = 40;
const pieces = Array.from({ length: CHUNKS }, () => randomBytes(CHUNK_BYTES));
const added = Array.from({ length: 3 }, () => randomBytes(CHUNK_BYTES));
const image1 = Buffer.concat(pieces);
/** The whole first image, moved up by added chunks before it. */
const image2 = Buffer.concat([...added, ...pieces]);

let harness: AgentHarness;

beforeEach(async () => {
  harness = await AgentHarness.open();
});
afterEach(async () => {
  await harness.close();
});

async function publish(counter: number, image: Buffer) {
  const published = harness.fleet.addRelease({ counter, image, chunkBytes: CHUNK_BYTES });
  harness.fleet.addRollout(counter);
  await harness.fleet.publishAll();
  return published;
}

async function install(counter: number, image: Buffer) {
  await publish(counter, image);
  const before = fetched().length;
  const result = await harness.device.cycle();
  return { result, fetched: fetched().slice(before) };
}

const fetched = () => harness.gateway.requests.filter(line => line.includes('/chunks/'));
const slotFile = (name: 'a' | 'b') => join(harness.device.directory, `${name}.img`);
const dataFile = (name: string) => join(harness.device.directory, 'data', name);

describe('an update over a release that runs', () => {
  it('copies chunks from the booted slot, wherever they moved to, also without peers', async () => {
    await install(1, image1);
    const { result, fetched: chunks } = await install(2, image2);
    expect(result).toMatchObject({ state: 'completed' });
    expect(await harness.device.slot('A')).toEqual(image2);
    expect(chunks).toHaveLength(added.length);
  });

  it('fetches exactly the chunks that the booted slot no longer holds', async () => {
    await install(1, image1);
    const altered = await open(slotFile('b'), 'r+');
    const at = 5 * CHUNK_BYTES + 7;
    await altered.write(Buffer.of((image1[at] ?? 0) ^ 1), 0, 1, at);
    // It is also cut off.
    await altered.truncate(image1.length - 1);
    await altered.close();
    const { result, fetched: chunks } = await install(2, image2);
    expect(result).toMatchObject({ state: 'completed' });
    expect(await harness.device.slot('A')).toEqual(image2);
    expect(chunks).toHaveLength(added.length + 2);
  });

  it('fetches the index of the running release once, where an earlier version kept none', async () => {
    await install(1, image1);
    await rm(dataFile('slot-b.caibx'));
    await rm(dataFile('documents'), { recursive: true });
    await harness.device.close();
    await harness.device.open();
    expect((await install(2, image2)).fetched).toHaveLength(added.length);
    expect(await readFile(dataFile('slot-b.caibx'))).toHaveLength(40 * CHUNKS + 104);
  });

  it('fetches everything where the running release is no longer listed and its index is lost', async () => {
    await install(1, image1);
    await rm(dataFile('slot-b.caibx'));
    harness.fleet.withdraw(1);
    const { result, fetched: chunks } = await install(2, image2);
    expect(result).toMatchObject({ state: 'completed' });
    expect(chunks).toHaveLength(CHUNKS + added.length);
  });
});

describe('a device from the factory', () => {
  it('fetches the index of the release that it was made with, once, and copies from it', async () => {
    await writeFile(slotFile('a'), image1);
    await harness.device.open({ settings: { factoryRelease: { counter: 1, version: '1.0.0' } } });
    const { index } = harness.fleet.addRelease({ counter: 1, image: image1, chunkBytes: CHUNK_BYTES });
    const { result, fetched: chunks } = await install(2, image2);
    expect(result).toMatchObject({ state: 'completed' });
    expect(chunks).toHaveLength(added.length);
    const sha256 = createHash('sha256').update(index.encode()).digest('hex');
    expect(harness.device.parts.stateFile.current.slots.A).toMatchObject({ baseIndexSha256: sha256 });
    expect(await readFile(dataFile('slot-a.caibx'))).toEqual(index.encode());
  });
});

describe('the slot that is written', () => {
  it.each([
    ['up', (all: Buffer[]) => [...added, ...all]],
    ['down', (all: Buffer[]) => all.slice(4)],
    ['in a circle', (all: Buffer[]) => [...all.slice(CHUNKS / 2), ...all.slice(0, CHUNKS / 2)]],
    ['all over', (all: Buffer[]) => all.toReversed()],
  ])('is a source of its own old chunks that moved %s', async (_how, moved) => {
    await install(1, image1);
    const between = randomBytes(30_000);
    await install(2, between);
    const last = Buffer.concat(moved(pieces));
    const { result, fetched: chunks } = await install(3, last);
    expect(result).toMatchObject({ state: 'completed' });
    expect(await harness.device.slot('B')).toEqual(last);
    expect(chunks.length).toBe(last.length > image1.length ? added.length : 0);
  });

  it('gives no chunk that it no longer holds', async () => {
    await install(1, image1);
    await install(2, randomBytes(30_000));
    await writeFile(slotFile('b'), randomBytes(image1.length));
    const { result, fetched: chunks } = await install(3, Buffer.concat(pieces.toReversed()));
    expect(result).toMatchObject({ state: 'completed' });
    expect(chunks).toHaveLength(CHUNKS);
  });
});

describe('runs of zeros', () => {
  const sparse = Buffer.concat([
    randomBytes(CHUNK_BYTES),
    Buffer.alloc(200 * CHUNK_BYTES),
    randomBytes(CHUNK_BYTES),
  ]);

  it('are neither fetched nor written to a new file, which keeps its holes', async () => {
    const { result, fetched: chunks } = await install(1, sparse);
    expect(result).toMatchObject({ state: 'completed' });
    expect(chunks).toHaveLength(2);
    expect(await harness.device.slot('B')).toEqual(sparse);
    const { blocks } = await stat(slotFile('b'));
    expect(blocks * 512).toBeLessThan(20 * CHUNK_BYTES);
  });

  it('replace other bytes at their places', async () => {
    await writeFile(slotFile('b'), randomBytes(sparse.length));
    const { result, fetched: chunks } = await install(1, sparse);
    expect(result).toMatchObject({ state: 'completed' });
    expect(chunks).toHaveLength(2);
    expect(await harness.device.slot('B')).toEqual(sparse);
  });
});

it('shows and reports only those chunks as to be fetched that no slot holds', async () => {
  await install(1, image1);
  await publish(2, image2);
  await harness.device.close();
  await harness.device.open({ settings: { maxFetchBytes: added.length * CHUNK_BYTES - 1 } });
  expect(await harness.device.cycle()).toMatchObject({
    state: 'waiting',
    reason: { code: 'SITECAST_PLAN_TOO_LARGE' },
  });
  expect(harness.device.parts.status.current.plan).toMatchObject({
    imageBytes: image2.length,
    fetchBytes: added.length * CHUNK_BYTES,
  });
});
