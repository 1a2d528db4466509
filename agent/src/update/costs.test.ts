import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Spending } from '../state/spending.ts';
import { waysLines } from '../status-text.ts';
import { AgentHarness } from '../testing/harness.ts';

// What an update without a recipe may cost: no signed file says how long compressed chunks are.

const CHUNK_BYTES = 20_000;
const CHUNKS = 60;
/** A quarter of each chunk is random. */
const compressible = () =>
  Buffer.concat(
    Array.from({ length: CHUNKS }, () => {
      const part = randomBytes(CHUNK_BYTES / 4);
      return Buffer.concat([part, part, part, part]);
    }),
  );

let harness: AgentHarness;

beforeEach(async () => {
  harness = await AgentHarness.open({ images: [randomBytes(CHUNK_BYTES)] });
  await harness.device.cycle();
});
afterEach(async () => {
  await harness.close();
});

async function order(image: Buffer, maxBytes: number | undefined): Promise<void> {
  harness.fleet.addRelease({ counter: 2, image, chunkBytes: CHUNK_BYTES });
  harness.fleet.addRollout(2);
  await harness.fleet.publishAll();
  await harness.device.close();
  await harness.device.open({ settings: { maxBytes } });
  harness.gateway.requests.length = 0;
  harness.gateway.served.length = 0;
}
const chunksFetched = () => harness.gateway.count('GET /chunks/');
const chunksAskedAbout = () => harness.gateway.count('HEAD /chunks/');
const servedBytes = () =>
  harness.gateway.served
    .filter(({ path }) => /\.(cacnk|caibx)$/.test(path))
    .reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
const plainBytes = CHUNKS * CHUNK_BYTES;

describe('a bound that the plain chunks would exceed, but their frames do not', () => {
  it('allows the update, which costs about what was planned', async () => {
    await order(compressible(), plainBytes / 3);
    const { plan, rest } = await harness.device.check();
    expect(rest).toEqual({ state: 'idle' });
    expect(plan).toMatchObject({ fetched: plainBytes, framesBy: 'sample' });
    expect(chunksFetched()).toBe(0);
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    const { plannedBytes = 0, spentBytes = 0 } = harness.reports.at(-1)?.transfer ?? {};
    expect(spentBytes).toBe(servedBytes());
    expect(plannedBytes / spentBytes).toBeGreaterThan(0.95);
    expect(plannedBytes / spentBytes).toBeLessThan(1.05);
  });

  it('allows it even if no gateway says how long frames are; then it may end at the bound', async () => {
    harness.gateway.misbehave = (_path, { method }) => (method === 'HEAD' ? 'missing' : undefined);
    const maxBytes = plainBytes / 6;
    await order(compressible(), maxBytes);
    const { plan } = await harness.device.check();
    expect(plan).toMatchObject({ framesBy: 'plain' });
    expect(plan && waysLines(plan).join('\n')).toMatch(
      /to an unknown length\nat most 1\.\d MiB from gateways/,
    );
    expect(await harness.device.cycle()).toMatchObject({
      state: 'waiting',
      waitingFor: 'approval',
      reason: { code: 'SITECAST_BYTES_SPENT', message: expect.stringContaining('--max-bytes') },
    });
    expect(servedBytes()).toBeLessThanOrEqual(maxBytes);
    expect(servedBytes()).toBeGreaterThan(maxBytes / 2);
    expect(harness.reports.at(-1)?.transfer).toMatchObject({ isPlanAtMost: true });
    await harness.device.close();
    await harness.device.open({ settings: { maxBytes: plainBytes / 3 } });
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  });
});

// Frames are much shorter than their upper bound, so each one that arrives frees a large part of its reservation.
it('keeps to a bound that has room for the frames and one more chunk, while eight are fetched at once, and completes', async () => {
  const longBytes = 200_000;
  const chunks = 24;
  const image = Buffer.concat(
    Array.from({ length: chunks }, () =>
      Buffer.concat([randomBytes(longBytes / 8), Buffer.alloc(longBytes * 0.875)]),
    ),
  );
  harness.fleet.addRelease({ counter: 2, image, chunkBytes: longBytes });
  harness.fleet.addRollout(2);
  await harness.fleet.publishAll();
  await harness.device.close();
  const maxBytes = (chunks / 8 + 1.5) * longBytes;
  await harness.device.open({ settings: { maxBytes, concurrency: 8 } });
  harness.gateway.served.length = 0;
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  expect(servedBytes()).toBeLessThanOrEqual(maxBytes);
  expect(image.equals(await harness.device.slot('A'))).toBe(true);
});

it('counts wrong indexes that gateways sent: the device waits at the bound and says so, and does not ask the next gateway', async () => {
  const site = await AgentHarness.open({ images: [randomBytes(CHUNK_BYTES)], hasOther: true });
  try {
    await site.device.cycle();
    site.fleet.addRelease({ counter: 2, image: compressible(), chunkBytes: CHUNK_BYTES });
    site.fleet.addRollout(2);
    await site.fleet.publishAll();
    const [, index] = [...site.fleet.files].findLast(([path]) => path.endsWith('.caibx')) ?? [];
    if (!(index instanceof Uint8Array)) throw new Error('no index is published');
    const wrong = Buffer.alloc(index.length, 1);
    for (const gateway of [site.gateway, site.other])
      gateway.misbehave = path => (path.endsWith('.caibx') ? wrong : undefined);
    await site.device.close();
    const isIndex = ({ path }: { path: string }) => path.endsWith('.caibx');
    for (const { served } of [site.gateway, site.other]) served.length = 0;
    await site.device.open({ settings: { maxBytes: Math.ceil(1.5 * wrong.length), deltas: 'off' } });
    expect(await site.device.cycle()).toMatchObject({
      state: 'waiting',
      waitingFor: 'approval',
      reason: { code: 'SITECAST_PLAN_TOO_LARGE', message: expect.stringContaining('--max-bytes') },
    });
    expect([...site.gateway.served, ...site.other.served].filter(isIndex)).toEqual([
      { path: expect.any(String), lengthBytes: wrong.length },
    ]);
  } finally {
    await site.close();
  }
});

it('waits at a bound that the frames surely exceed, before anything is fetched or the slot is touched', async () => {
  const image = randomBytes(plainBytes);
  await order(image, plainBytes / 3);
  const before = await harness.device.parts.boot.read();
  for (let cycles = 0; cycles < 3; cycles += 1)
    expect(await harness.device.cycle()).toMatchObject({
      state: 'waiting',
      waitingFor: 'approval',
      reason: {
        code: 'SITECAST_PLAN_TOO_LARGE',
        message: expect.stringMatching(
          /takes about 1\.\d MiB .* start the agent with --max-bytes 2MiB or more$/,
        ),
      },
    });
  expect(chunksFetched()).toBe(0);
  // Known lengths aren't asked for again in each cycle.
  expect(chunksAskedAbout()).toBeLessThanOrEqual(24);
  expect(harness.device.parts.stateFile.current.update).toBeNull();
  expect(await harness.device.parts.boot.read()).toEqual(before);
  await harness.device.close();
  await harness.device.open({ settings: { maxBytes: 2 * plainBytes } });
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  expect(await harness.device.slot('A')).toEqual(image);
});

it('spends nothing of the bound by waiting, answering `check` and restarting again and again', async () => {
  await order(randomBytes(plainBytes), plainBytes / 3);
  let spentBytes = 0;
  for (let starts = 0; starts < 3; starts += 1) {
    expect(await harness.device.check()).toMatchObject({ rest: { state: 'waiting' } });
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting' });
    await harness.device.close();
    const spending = await Spending.open(join(harness.device.directory, 'data'), { maxBytes: 1 });
    spentBytes = spending.spentBytes;
    expect(spending.uncountedBytes).toBe(0);
    await harness.device.open({ settings: { maxBytes: plainBytes / 3 } });
  }
  expect(spentBytes).toBe(servedBytes());
});

it('asks for no frame lengths where there is no bound, or everything fits', async () => {
  for (const maxBytes of [undefined, 2 * plainBytes]) {
    await order(compressible(), maxBytes);
    expect(await harness.device.check()).toMatchObject({ rest: { state: 'idle' } });
    expect(chunksAskedAbout()).toBe(0);
  }
});

describe('bytes spent before a SIGKILL', () => {
  const ID = 'ab'.repeat(32);
  const RELEASE = { counter: 7, version: '7.0.0' };
  const note = () => join(harness.device.directory, 'data', 'spending.json');
  const open = (maxBytes: number | undefined) =>
    Spending.open(join(harness.device.directory, 'data'), { maxBytes });

  it('are those that were counted; bytes reserved ahead count only against a bound', async () => {
    const maxBytes = 10_000_000;
    for (const bound of [undefined, maxBytes]) {
      const spending = await open(bound);
      spending.begin(`${bound === undefined ? 'c' : 'd'}${ID.slice(1)}`, RELEASE);
      for (let paid = 0; paid < 3; paid += 1) await spending.pay(300_000, async sent => sent(250_000));
      // The state that a SIGKILL leaves: nothing is flushed.
      const noted = JSON.parse(await readFile(note(), 'utf8')).spentBytes;
      expect(noted).toBeGreaterThan(750_000);
      const after = await open(bound);
      expect(after.spentBytes).toBeLessThanOrEqual(750_000);
      expect(after.spentBytes + after.uncountedBytes).toBe(noted);
      expect(after.transferOf(7)).toEqual({ spentBytes: after.spentBytes });
      expect(after.leftBytes).toBe(bound === undefined ? Number.POSITIVE_INFINITY : bound - noted);
    }
  });

  it('include those that an agent of an earlier version has noted', async () => {
    const spending = await open(1_000_000);
    spending.begin(ID, RELEASE);
    await spending.pay(300_000, async sent => sent(250_000));
    await spending.flush();
    const { countedBytes, ...old } = JSON.parse(await readFile(note(), 'utf8'));
    expect(countedBytes).toBe(250_000);
    await writeFile(note(), JSON.stringify(old));
    expect((await open(1_000_000)).shown).toEqual({ ...RELEASE, spentBytes: 250_000 });
  });
});

it('a device whose gateway gives no chunk pays for the index once, over retries and restarts, and for few refusals, and tells what the gateway says', async () => {
  await order(compressible(), plainBytes);
  const problem = {
    code: 'SITECAST_CHUNK_UNAVAILABLE',
    detail: 'none is given',
    hint: 'Start it with --fleet-upload.',
  };
  harness.gateway.misbehave = path =>
    path.startsWith('/chunks/')
      ? response => response.writeHead(503).end(JSON.stringify(problem))
      : undefined;
  const rounds = 3;
  for (let round = 0; round < rounds; round += 1) {
    if (round === 1) {
      await harness.device.close();
      await harness.device.open({ settings: { maxBytes: plainBytes } });
    }
    expect(await harness.device.cycle()).toMatchObject({
      state: 'waiting',
      waitingFor: 'source',
      reason: {
        code: 'SITECAST_NO_SOURCE',
        message: expect.stringMatching(/none is given\)\. Start it with --fleet-upload\.$/),
      },
    });
  }
  expect(harness.gateway.count('.caibx')).toBe(1);
  // Eight chunks at once, and three more rounds for one of them.
  expect(chunksFetched()).toBeLessThanOrEqual(11 * rounds);
  expect(chunksFetched()).toBeGreaterThan(3 * rounds);
});
