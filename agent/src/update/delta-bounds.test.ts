import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { PublishedImage } from '@sitecast/shared/testing/origin';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Spending } from '../state/spending.ts';
import { SYSTEM_ENCODERS } from '@sitecast/shared/delta/testing';
import { publishTestDelta, type TestDelta } from '../testing/deltas.ts';
import { AgentHarness } from '../testing/harness.ts';
import { powerCutAt, untilPowerCut } from '../testing/power-cut.ts';

// Bounds on a delta that costs more than it should: bytes, time, room, and how many other deltas are tried.

const CHUNK_BYTES = 20_000;
const image1 = randomBytes(10 * CHUNK_BYTES);
const image2 = randomBytes(10 * CHUNK_BYTES);

let harness: AgentHarness;
let base: PublishedImage;
let target: PublishedImage;

beforeEach(async () => {
  harness = await AgentHarness.open();
  base = harness.fleet.addRelease({ counter: 1, image: image1, chunkBytes: CHUNK_BYTES });
  harness.fleet.addRollout(1);
  await harness.fleet.publishAll();
  await harness.device.cycle();
  target = harness.fleet.addRelease({ counter: 2, image: image2, chunkBytes: CHUNK_BYTES });
  harness.fleet.addRollout(2);
  await harness.fleet.publishAll();
  harness.gateway.requests.length = 0;
  harness.gateway.served.length = 0;
});
afterEach(async () => {
  await harness.close();
});

const publish = (changes: Partial<TestDelta> = {}) =>
  publishTestDelta(harness.fleet, {
    from: 1,
    to: 2,
    base,
    target,
    firsts: [0, 2, 4, 6, 8],
    chunkCount: 2,
    ...changes,
  });
const reopen = async (changes: Parameters<AgentHarness['device']['open']>[0]) => {
  await harness.device.close();
  await harness.device.open(changes);
};
const idOf = (path: string) => /([0-9a-f]{64})\.cacnk/.exec(path)?.[1];
const isOfRelease = (path: string) => target.ids.some(id => Buffer.from(id).toString('hex') === idOf(path));
const isPatch = (path: string) => idOf(path) !== undefined && !isOfRelease(path);
/** Bytes of all files that count as cost: chunks, patches, recipes, indexes. */
const servedBytes = () =>
  harness.gateway.served
    .filter(({ path }) => /\.(cacnk|caibx|recipe)$/.test(path))
    .reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
const codes = () => harness.reports.map(({ reason }) => reason?.code);

describe('bytes', () => {
  it('count even if an answer is cut off: a gateway that never sends a whole chunk costs no more than the bound', async () => {
    harness.gateway.misbehave = path => (isOfRelease(path) ? 'truncate' : undefined);
    const maxBytes = 13 * CHUNK_BYTES;
    await reopen({ haste: 100, settings: { maxBytes, deltas: 'off' } });
    let found: unknown;
    for (let cycles = 0; cycles < 12; cycles += 1) {
      const { reason } = await harness.device.cycle();
      found = reason?.code;
      if (found !== 'SITECAST_NO_SOURCE') break;
    }
    expect(['SITECAST_PLAN_TOO_LARGE', 'SITECAST_BYTES_SPENT']).toContain(found);
    expect(servedBytes()).toBeGreaterThan(0);
    expect(servedBytes()).toBeLessThanOrEqual(maxBytes);
  });

  it('for an index are not spent if it is longer than what is left; the device waits, and says so', async () => {
    await reopen({ settings: { maxBytes: 100, deltas: 'off' } });
    expect(await harness.device.check()).toMatchObject({
      available: { release: { counter: 2 } },
      rest: { state: 'waiting', waitingFor: 'approval', reason: { code: 'SITECAST_PLAN_TOO_LARGE' } },
    });
    expect(await harness.device.cycle()).toMatchObject({
      state: 'waiting',
      waitingFor: 'approval',
      reason: { code: 'SITECAST_PLAN_TOO_LARGE', message: expect.stringContaining('--max-bytes') },
    });
    expect(servedBytes()).toBe(0);
    expect(harness.reports.at(-1)).toMatchObject({ state: 'waiting', release: { counter: 2 } });
    expect(codes().at(-1)).toBe('SITECAST_PLAN_TOO_LARGE');
    await reopen({ settings: { deltas: 'off' } });
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  });

  it('for useless recipes are bounded by their number: the holder of the key could sign one each hour', async () => {
    harness.gateway.misbehave = path => (isOfRelease(path) ? 'missing' : undefined);
    await reopen({ haste: 1000 });
    for (let hour = 0; hour < 11; hour += 1) {
      await harness.fleet.publishDelta(
        { product: 'camera', from: 1, to: 2 },
        () => Buffer.concat([Buffer.from('no recipe'), randomBytes(50_000)]),
        randomBytes(10),
        5000,
      );
      expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'source' });
    }
    expect(harness.gateway.served.filter(({ path }) => path.endsWith('.recipe'))).toHaveLength(8);
  });
});

it('for patches that an earlier start has fetched are counted once, in fact and in the plan', async () => {
  const patchBytes = await publish();
  // Enough for the plan, and not for a second time.
  const settings = { maxBytes: Math.ceil(1.4 * patchBytes) };
  await harness.device.close();
  await expect(
    untilPowerCut(async () => {
      await harness.device.open({ settings, failpoint: powerCutAt('patch before') });
      await harness.device.cycle();
    }),
  ).resolves.toBe(true);
  const before = servedBytes();
  expect(before).toBeGreaterThan(patchBytes);
  await harness.device.close({ isCut: true });
  await harness.device.open({ settings });
  expect(await harness.device.check()).toMatchObject({ rest: { state: 'idle' }, plan: { patches: 0 } });
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  expect(servedBytes()).toBe(before);
});

it('of a plan that is too expensive are shown by `check`, with what the device would wait for', async () => {
  await publish();
  await reopen({ settings: { maxBytes: 3 * CHUNK_BYTES } });
  expect(await harness.device.check()).toMatchObject({
    plan: { patched: 10 * CHUNK_BYTES },
    rest: {
      state: 'waiting',
      waitingFor: 'approval',
      reason: {
        code: 'SITECAST_PLAN_TOO_LARGE',
        message: expect.stringMatching(/--max-bytes allows 59 KiB .* --max-bytes \d+[KM]iB or more$/),
      },
    },
  });
  await reopen({ settings: { maxBytes: 20 * CHUNK_BYTES } });
  expect(await harness.device.check()).toMatchObject({ rest: { state: 'idle' } });
});

describe('time', () => {
  it('that a patch may take is noted beforehand, so a process that is killed during a patch has used it', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'sitecast-spending-'));
    const at = (name: string) => join(directory, name, 'spending.json');
    await mkdir(join(directory, 'killed'));
    await mkdir(join(directory, 'after'));
    const bounds = { maxBytes: undefined, maxApplyMs: 800 };
    try {
      const spending = await Spending.open(join(directory, 'killed'), bounds);
      spending.begin('ab'.repeat(32), { counter: 2, version: '2.0.0' });
      await spending.timed(async () => {
        const beganMs = performance.now();
        await expect.poll(() => performance.now() - beganMs).toBeGreaterThan(450);
        const takenMs = performance.now() - beganMs;
        // The state that a SIGKILL leaves.
        await copyFile(at('killed'), at('after'));
        const after = await Spending.open(join(directory, 'after'), bounds);
        expect(after.applyMs).toBeGreaterThan(0.8 * takenMs);
        return { cpuMs: 10 };
      });
      await spending.flush();
      const later = await Spending.open(join(directory, 'killed'), bounds);
      expect([spending.applyMs, later.applyMs]).toEqual([10, 10]);
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it('that is used up ends patches for the release; the report says so, and blames no recipe', async () => {
    const MIB = 1024 * 1024;
    const old = Buffer.alloc(4 * MIB);
    // Four of eight bits are random, so it compresses to half of its length and takes time to decode.
    const next = Buffer.from(randomBytes(old.length).map(byte => byte & 15));
    const bigger = await AgentHarness.open();
    try {
      const from = bigger.fleet.addRelease({ counter: 1, image: old, chunkBytes: MIB });
      bigger.fleet.addRollout(1);
      await bigger.fleet.publishAll();
      await bigger.device.open({ settings: { maxApplyMs: 20 } });
      await bigger.device.cycle();
      const to = bigger.fleet.addRelease({ counter: 2, image: next, chunkBytes: MIB });
      bigger.fleet.addRollout(2);
      await bigger.fleet.publishAll();
      await publishTestDelta(bigger.fleet, {
        from: 1,
        to: 2,
        base: from,
        target: to,
        firsts: [0, 2],
        chunkCount: 2,
        encoders: SYSTEM_ENCODERS.slice(0, 1),
        patchChunkBytes: MIB,
      });
      expect(await bigger.device.cycle()).toMatchObject({ state: 'completed' });
      expect(await bigger.device.slot('A')).toEqual(next);
      expect(bigger.reports.map(({ reason }) => reason?.code)).toContain('SITECAST_APPLY_TIME');
      const spending = await Spending.open(join(bigger.device.directory, 'data'), { maxBytes: undefined });
      expect(spending.applyMs).toBeGreaterThan(0);
      expect(spending.failedRecipes).toEqual([]);
    } finally {
      await bigger.close();
    }
  });
});

/** Fills the disk. What was written stays. */
function fill(path: string): void {
  try {
    writeFileSync(path, Buffer.alloc(8 * 1024 * 1024));
  } catch {
    // ENOSPC, as intended.
  }
}

const isRoot = process.getuid?.() === 0;

describe.skipIf(!isRoot)('room in the data directory (needs root for a tmpfs)', () => {
  let small: string;

  beforeEach(() => {
    small = join(harness.device.directory, 'small');
    mkdirSync(small);
  });
  afterEach(async () => {
    await harness.device.close({ isCut: true });
    execFileSync('umount', [small], { stdio: 'pipe' });
  });

  async function openIn(options: string): Promise<void> {
    await harness.device.close();
    execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', small], { stdio: 'pipe' });
    execFileSync('cp', ['-a', join(harness.device.directory, 'data'), small]);
    await harness.device.open({ settings: { data: join(small, 'data') } });
  }
  const kept = () => readdir(join(small, 'data', 'patches')).catch(() => []);

  it('that is too small for patches is noticed before they are fetched; the update uses chunks', async () => {
    await publish();
    await openIn('size=1100k');
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(await harness.device.slot('A')).toEqual(image2);
    expect(codes()).toContain('SITECAST_PATCHES_NOT_KEPT');
    expect(harness.gateway.served.filter(({ path }) => isPatch(path))).toEqual([]);
  });

  it('that is used up while a patch is kept makes the agent drop the patches; the update uses chunks', async () => {
    await publish();
    await openIn('size=4m');
    let patches = 0;
    harness.gateway.misbehave = path => {
      if (isPatch(path)) patches += 1;
      if (patches === 10) fill(join(small, 'filler'));
      return undefined;
    };
    const found = await harness.device.cycle();
    expect(codes()).toContain('SITECAST_PATCHES_NOT_KEPT');
    const said = harness.reports.find(({ reason }) => reason?.code === 'SITECAST_PATCHES_NOT_KEPT');
    expect(said?.reason?.message).toContain('ENOSPC');
    expect(await kept()).toEqual([]);
    // The disk may be too full for the agent's own notes as well.
    expect(['completed', 'waiting']).toContain(found.state);
    await rm(join(small, 'filler'));
    await harness.device.cycle();
    expect(await harness.device.slot('A')).toEqual(image2);
  });
});
