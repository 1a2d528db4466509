import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileSlot } from '../adapters/file-slot.ts';
import { AgentHarness } from '../testing/harness.ts';
import type { Slot } from '../ports.ts';
import type { Fault } from '@sitecast/shared/testing/origin';
import { powerCutAt, untilPowerCut } from '../testing/power-cut.ts';
import { statusText } from '../status-text.ts';

const YEAR_MS = 365 * 86_400_000;
const image1 = randomBytes(100_000);
const image2 = randomBytes(100_000);

let harness: AgentHarness;

beforeEach(async () => {
  harness = await AgentHarness.open({ images: [image1, image2], hasOther: true });
});
afterEach(async () => {
  await harness.close();
});

const told = () => harness.reports;

describe('a gateway that misbehaves', () => {
  const chunks = (misbehave: Fault) => (path: string) =>
    path.startsWith('/chunks/') ? misbehave : undefined;

  it.each(['tamper', 'endless'] as const)(
    'with wrong chunks (%s) is banned and reported; another one serves',
    async what => {
      harness.gateway.misbehave = chunks(what);
      expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
      expect(await harness.device.slot('B')).toEqual(image1);
      const bans = told().filter(({ reason }) => reason?.code === 'SITECAST_SOURCE_BANNED');
      expect(bans).toHaveLength(1);
      expect(bans[0]?.reason?.message).toContain(harness.gateway.url);
    },
  );

  it.each(['truncate', 'drop', 'missing', 'broken'] as const)('with chunks (%s) is skipped', async what => {
    harness.gateway.misbehave = chunks(what);
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(await harness.device.slot('B')).toEqual(image1);
  });

  it('with wrong chunks keeps the device waiting, not failed, if it is the only one, until it sends right ones', async () => {
    for (const each of [harness.gateway, harness.other]) each.misbehave = chunks('tamper');
    expect(await harness.device.cycle()).toMatchObject({
      state: 'waiting',
      waitingFor: 'source',
      reason: { code: 'SITECAST_SOURCES_BANNED' },
    });
    expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'A' });
    for (const each of [harness.gateway, harness.other]) each.misbehave = () => undefined;
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  });

  it.each(['tamper', 'truncate', 'endless', 'missing'] as const)(
    'with metadata (%s) is replaced by the next one',
    async what => {
      harness.gateway.misbehave = path => (path.startsWith('/metadata/timestamp') ? what : undefined);
      expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    },
  );

  it('with old metadata is not banned; the next one is asked', async () => {
    const old = harness.fleet.snapshotOfFiles();
    await harness.device.cycle();
    await harness.fleet.publishAll();
    await harness.device.cycle();
    harness.gateway.frozen = old;
    harness.fleet.addRollout(2);
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(harness.device.parts.status.current.metadata.problem).toBeUndefined();
  });

  it('with another clock gets requests signed by that clock', async () => {
    harness.gateway.clockOffsetMs = 5 * YEAR_MS;
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(harness.device.parts.outbox.pendingCount).toBe(0);
  });

  it('that disappears keeps the reports waiting; another gateway accepts them all', async () => {
    harness.origin.acknowledges = false;
    await harness.device.cycle();
    const waiting = harness.device.parts.outbox.pendingCount;
    expect(waiting).toBeGreaterThan(5);
    await harness.device.close();
    harness.gateway.misbehave = () => 'drop';
    harness.origin.acknowledges = true;
    await harness.device.open();
    await harness.device.cycle();
    expect(harness.device.parts.outbox.pendingCount).toBe(0);
    expect(harness.origin.conflicts).toEqual([]);
    expect(told().map(({ seq }) => seq)).toEqual(told().map((_, index) => index + 1));
  });
});

describe('a clock that is wrong by years', () => {
  it('ahead is reported as a state', async () => {
    await harness.device.open();
    await harness.device.cycle();
    await harness.device.close();
    harness.fleet.addRollout(2);
    await harness.fleet.publishAll();
    await harness.device.open({ clockOffsetMs: YEAR_MS });
    expect(await harness.device.cycle()).toMatchObject({ state: 'clockSuspect' });
    expect(told().at(-1)).toMatchObject({
      state: 'clockSuspect',
      reason: { code: 'SITECAST_CLOCK_SUSPECT' },
    });
    expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'B' });
  });

  it('behind does not keep the device from updating, except within a window', async () => {
    const [rollout] = harness.fleet.camera.rollouts;
    if (rollout) rollout.window = '00:00-24:00';
    await harness.fleet.publishAll();
    await harness.device.open({ clockOffsetMs: -10 * YEAR_MS });
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'time' });
    expect(screen()).toContain("this clock is behind, or the origin's was ahead when it signed");
    if (rollout) delete rollout.window;
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  });
});

it("that the system synchronizes isn't blamed for a timestamp from the future", async () => {
  await harness.device.open({ clockOffsetMs: -YEAR_MS, isSynchronised: true });
  await harness.device.cycle();
  expect(screen()).toMatch(/this clock is synchronised: the origin's was ahead .* keys rotate timestamp/);
  expect(screen()).not.toContain('this clock is behind');
});

function screen(): string {
  return statusText(harness.device.parts.status.current, { isAlive: true, nowMs: Date.now() });
}

describe('a site without its origin', () => {
  it('activates while the order is fresh enough by its own terms, and not after that', async () => {
    harness.gateway.lease = () => ({ granted: true });
    harness.other.lease = harness.gateway.lease;
    harness.fleet.nowMs = Date.now() - 4 * 3_600_000;
    const [rollout] = harness.fleet.camera.rollouts;
    if (rollout) rollout.offlineForMs = 3 * 3_600_000;
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'freshness' });
    if (rollout) rollout.offlineForMs = 5 * 3_600_000;
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  });
});

describe('a power cut', () => {
  const cutAt = async (name: string) => {
    const failpoint = powerCutAt(name);
    expect(
      await untilPowerCut(async () => {
        await harness.device.open({ failpoint, settings: { hooks: {} } });
        await harness.device.cycle();
      }),
    ).toBe(true);
    await harness.device.close({ isCut: true });
  };

  it('during the trial of the new slot is no failure: the slot is tried again', async () => {
    await cutAt('confirm after');
    await harness.device.open();
    await harness.device.cycle();
    expect(told().at(-1)).toMatchObject({ state: 'completed' });
    expect(told().every(({ state }) => state !== 'failed')).toBe(true);
  });

  it('in every trial boot leads to bootCountExhausted', async () => {
    await cutAt('reboot before');
    const states = [];
    for (let boots = 0; boots < 3; boots += 1) {
      // The agent's process is killed each time before it judges the boot.
      const { FileBootControl } = await import('../adapters/file-boot.ts');
      const boot = new FileBootControl(join(harness.device.directory, 'data', 'boot.json'), {
        firstSlot: 'A',
        afterBoot: async () => {},
      });
      states.push((await boot.start()).booted);
    }
    expect(states).toEqual(['B', 'B', 'A']);
    await harness.device.open();
    await harness.device.cycle();
    expect(told().slice(-2)).toMatchObject([
      { state: 'failed', reason: { code: 'bootCountExhausted' } },
      { state: 'rolledBack', booted: { slot: 'A' } },
    ]);
    expect(harness.device.parts.stateFile.current.barred).toMatchObject([{ counter: 1 }]);
  });
});

describe('an unusable slot', () => {
  it('that is shorter than the image fails the attempt and is reported', async () => {
    await harness.device.open({ settings: { slotBytes: 50_000 } });
    expect(await harness.device.cycle()).toMatchObject({
      state: 'failed',
      reason: { code: 'SITECAST_SLOT_TOO_SMALL' },
    });
    expect(told().at(-1)).toMatchObject({ state: 'failed', reason: { code: 'SITECAST_SLOT_TOO_SMALL' } });
    expect(harness.device.parts.stateFile.current.lastFailure?.reason.message).toContain('50000 bytes');
    expect(await harness.device.cycle()).toMatchObject({
      state: 'blocked',
      reason: { code: 'SITECAST_ATTEMPT_USED' },
    });
    expect(harness.gateway.count('/chunks/')).toBe(0);
  });

  it('that fails on write, or reads back other bytes, fails the attempt', async () => {
    const real = new FileSlot(join(harness.device.directory, 'b.img'));
    const failing: Slot = {
      path: real.path,
      locate: remembered => real.locate(remembered),
      look: (...how) => real.look(...how),
      capacityBytes: () => real.capacityBytes(),
      openForReading: () => real.openForReading(),
      openForReadBack: () => real.openForReadBack(),
      openForWriting: async () => {
        const writer = await real.openForWriting();
        return {
          extend: lengthBytes => writer.extend(lengthBytes),
          // A medium that loses data: every block is written, and one comes back as zeros.
          write: (bytes, offset) => writer.write(offset === 0 ? Buffer.alloc(bytes.length) : bytes, offset),
          finish: lengthBytes => writer.finish(lengthBytes),
          close: () => writer.close(),
        };
      },
    };
    await harness.device.open({ slots: { B: failing } });
    expect(await harness.device.cycle()).toMatchObject({
      state: 'failed',
      reason: { code: 'SITECAST_SLOT_UNRELIABLE' },
    });
    expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'A', next: 'A' });
    expect(harness.device.parts.stateFile.current.slots.B).toMatchObject({ state: 'bad' });
  });
});

const isRoot = process.getuid?.() === 0;

/** False, with the reason printed, where this machine doesn't allow mounting. */
function mounted(path: string, ...options: string[]): boolean {
  mkdirSync(path, { recursive: true });
  try {
    execFileSync('mount', ['-t', 'tmpfs', ...options, 'tmpfs', path], { stdio: 'pipe' });
    return true;
  } catch (error) {
    console.log(`skipped: no tmpfs can be mounted here (${String(error)})`);
    return false;
  }
}

describe.skipIf(!isRoot)('a full or read-only file system (needs root for a tmpfs)', () => {
  let path: string;

  beforeEach(() => {
    path = join(harness.device.directory, 'small');
  });
  afterEach(async () => {
    await harness.device.close({ isCut: true });
    try {
      execFileSync('umount', [path], { stdio: 'pipe' });
    } catch {
      // It wasn't mounted.
    }
  });

  it('under the slot keeps the booted slot running, is reported, and the device recovers', async ({
    skip,
  }) => {
    if (!mounted(path, '-o', 'size=64k')) skip();
    await harness.device.open({ slots: { B: new FileSlot(join(path, 'b.img')) } });
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'space' });
    expect(harness.device.parts.status.current.message).toContain('no space left');
    expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'A' });
    execFileSync('mount', ['-o', 'remount,size=1m', path]);
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  });

  it('under the agent keeps the booted slot running, is reported, and the device recovers and reports everything', async ({
    skip,
  }) => {
    if (!mounted(path, '-o', 'size=256k')) skip();
    await harness.device.open({ settings: { data: join(path, 'data') } });
    await harness.device.cycle();
    harness.fleet.addRollout(2);
    await harness.fleet.publishAll();
    await writeFile(join(path, 'filler'), Buffer.alloc(300_000)).catch(() => {
      // The disk is full, as intended.
    });
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'space' });
    expect(harness.device.parts.status.current).toMatchObject({
      waitingFor: 'space',
      storageProblem: expect.stringMatching(
        /^no room for \S+\/small\/data\/\S+: it takes [\d.]+ K?i?B, and 0 B are free on the file system of \S+\/small\/data\S* \(ENOSPC\)/,
      ),
    });
    expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'B' });
    rmSync(join(path, 'filler'));
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(harness.device.parts.status.current.storageProblem).toBeUndefined();
    expect(told().filter(({ state }) => state === 'completed')).toHaveLength(2);
  });

  it('read-only under the slot fails the attempt', async ({ skip }) => {
    if (!mounted(path, '-o', 'ro')) skip();
    await harness.device.open({ slots: { B: new FileSlot(join(path, 'b.img')) } });
    expect(await harness.device.cycle()).toMatchObject({
      state: 'failed',
      reason: { code: 'SITECAST_SLOT_READ_ONLY' },
    });
  });
});
