import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileSlot } from '../adapters/file-slot.ts';
import { TestDevice } from '../testing/device.ts';
import type { Slot } from '../ports.ts';
import { TestFleet } from '../testing/fleet.ts';
import { type Mischief, FakeOrigin, FakeGateway } from '../testing/gateway.ts';
import { powerCutAt, untilPowerCut } from '../testing/power-cut.ts';
import { statusText } from '../status-text.ts';

const YEAR_MS = 365 * 86_400_000;
const image1 = randomBytes(100_000);
const image2 = randomBytes(100_000);
let fleet: TestFleet;
let origin: FakeOrigin;
let site: FakeGateway;
let other: FakeGateway;
let device: TestDevice;

beforeEach(async () => {
  fleet = await TestFleet.create();
  origin = new FakeOrigin(fleet);
  site = await FakeGateway.open(origin);
  other = await FakeGateway.open(origin);
  device = await TestDevice.create([site.url, other.url], fleet.rootBytes);
  fleet.addRelease({ counter: 1, image: image1 });
  fleet.addRelease({ counter: 2, image: image2 });
  fleet.rollOut(1);
  await fleet.publish();
});
afterEach(async () => {
  await device.remove();
  await site.close();
  await other.close();
});

const told = () => origin.told(device.id);

describe('a gateway that misbehaves', () => {
  const chunks = (mischief: Mischief) => (path: string) =>
    path.startsWith('/chunks/') ? mischief : undefined;

  it.each(['tamper', 'endless'] as const)(
    'with chunks (%s) is banned and reported; another serves',
    async what => {
      site.mischief = chunks(what);
      expect(await device.cycle()).toMatchObject({ state: 'completed' });
      expect(await device.slot('B')).toEqual(image1);
      const bans = told().filter(({ reason }) => reason?.code === 'SITECAST_SOURCE_BANNED');
      expect(bans).toHaveLength(1);
      expect(bans[0]?.reason?.message).toContain(site.url);
    },
  );

  it.each(['truncate', 'drop', 'missing', 'broken'] as const)(
    'with chunks (%s) is passed over',
    async what => {
      site.mischief = chunks(what);
      expect(await device.cycle()).toMatchObject({ state: 'completed' });
      expect(await device.slot('B')).toEqual(image1);
    },
  );

  it('alone keeps the device waiting, not failed, until there are right bytes', async () => {
    for (const each of [site, other]) each.mischief = chunks('tamper');
    expect(await device.cycle()).toMatchObject({
      state: 'waiting',
      waitingFor: 'source',
      reason: { code: 'SITECAST_SOURCES_BANNED' },
    });
    expect(await device.parts.boot.read()).toMatchObject({ booted: 'A' });
    for (const each of [site, other]) each.mischief = () => undefined;
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
  });

  it.each(['tamper', 'truncate', 'endless', 'missing'] as const)(
    'with metadata (%s) makes room for the next one',
    async what => {
      site.mischief = path => (path.startsWith('/metadata/timestamp') ? what : undefined);
      expect(await device.cycle()).toMatchObject({ state: 'completed' });
    },
  );

  it('with old metadata is no liar: the next one is asked', async () => {
    const old = new Map(fleet.files);
    await device.cycle();
    await fleet.publish();
    await device.cycle();
    site.frozen = old;
    fleet.rollOut(2);
    await fleet.publish();
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    expect(device.parts.status.current.metadata.problem).toBeUndefined();
  });

  it('that wants signatures by another clock gets them', async () => {
    site.clockOffsetMs = 5 * YEAR_MS;
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    expect(device.parts.outbox.pendingCount).toBe(0);
  });

  it('that is gone keeps the reports waiting; another gateway brings them all', async () => {
    origin.acknowledges = false;
    await device.cycle();
    const waiting = device.parts.outbox.pendingCount;
    expect(waiting).toBeGreaterThan(5);
    await device.close();
    site.mischief = () => 'drop';
    origin.acknowledges = true;
    await device.open();
    await device.cycle();
    expect(device.parts.outbox.pendingCount).toBe(0);
    expect(origin.conflicts).toEqual([]);
    expect(told().map(({ seq }) => seq)).toEqual(told().map((_, index) => index + 1));
  });
});

describe('a clock that is wrong by years', () => {
  it('ahead is a reported state, not silence', async () => {
    await device.open();
    await device.cycle();
    await device.close();
    fleet.rollOut(2);
    await fleet.publish();
    await device.open({ clockOffsetMs: YEAR_MS });
    expect(await device.cycle()).toMatchObject({ state: 'clockSuspect' });
    expect(told().at(-1)).toMatchObject({
      state: 'clockSuspect',
      reason: { code: 'SITECAST_CLOCK_SUSPECT' },
    });
    expect(await device.parts.boot.read()).toMatchObject({ booted: 'B' });
  });

  it('behind does not keep it from updating, but from a window', async () => {
    const [rollout] = fleet.rollouts;
    if (rollout) rollout.window = '00:00-24:00';
    await fleet.publish();
    await device.open({ clockOffsetMs: -10 * YEAR_MS });
    expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'time' });
    expect(screen()).toContain("this clock is behind, or the origin's was ahead when it signed");
    if (rollout) delete rollout.window;
    await fleet.publish();
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
  });
});

it("a clock that the system keeps right isn't blamed for a timestamp from the future", async () => {
  await device.open({ clockOffsetMs: -YEAR_MS, isSynchronised: true });
  await device.cycle();
  expect(screen()).toMatch(/this clock is synchronised: the origin's was ahead .* keys rotate timestamp/);
  expect(screen()).not.toContain('this clock is behind');
});

function screen(): string {
  return statusText(device.parts.status.current, { isAlive: true, nowMs: Date.now() });
}

describe('a site without its origin', () => {
  it('activates while the order is fresh enough by its own terms, and not after that', async () => {
    site.lease = () => ({ granted: true });
    other.lease = site.lease;
    fleet.nowMs = Date.now() - 4 * 3_600_000;
    const [rollout] = fleet.rollouts;
    if (rollout) rollout.offlineForMs = 3 * 3_600_000;
    await fleet.publish();
    expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'freshness' });
    if (rollout) rollout.offlineForMs = 5 * 3_600_000;
    await fleet.publish();
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
  });
});

describe('a power cut', () => {
  const cutAt = async (name: string) => {
    const failpoint = powerCutAt(name);
    expect(
      await untilPowerCut(async () => {
        await device.open({ failpoint, settings: { hooks: {} } });
        await device.cycle();
      }),
    ).toBe(true);
    await device.close({ isCut: true });
  };

  it('while the new slot proves itself is no failure: it is tried once more', async () => {
    await cutAt('confirm after');
    await device.open();
    await device.cycle();
    expect(told().at(-1)).toMatchObject({ state: 'completed' });
    expect(told().every(({ state }) => state !== 'failed')).toBe(true);
  });

  it('in every trial boot is bootCountExhausted', async () => {
    await cutAt('reboot before');
    const states = [];
    for (let boots = 0; boots < 3; boots += 1) {
      // The agent's process never gets as far as to look at the boot.
      const { FileBootControl } = await import('../adapters/file-boot.ts');
      const boot = new FileBootControl(join(device.directory, 'data', 'boot.json'), {
        firstSlot: 'A',
        afterBoot: async () => {},
      });
      states.push((await boot.start()).booted);
    }
    expect(states).toEqual(['B', 'B', 'A']);
    await device.open();
    await device.cycle();
    expect(told().slice(-2)).toMatchObject([
      { state: 'failed', reason: { code: 'bootCountExhausted' } },
      { state: 'rolledBack', booted: { slot: 'A' } },
    ]);
    expect(device.parts.stateFile.current.barred).toMatchObject([{ counter: 1 }]);
  });
});

describe('a slot that is no good', () => {
  it('for being shorter than the image fails the attempt and is reported', async () => {
    await device.open({ settings: { slotBytes: 50_000 } });
    expect(await device.cycle()).toMatchObject({
      state: 'failed',
      reason: { code: 'SITECAST_SLOT_TOO_SMALL' },
    });
    expect(told().at(-1)).toMatchObject({ state: 'failed', reason: { code: 'SITECAST_SLOT_TOO_SMALL' } });
    expect(device.parts.stateFile.current.lastFailure?.reason.message).toContain('50000 bytes');
    expect(await device.cycle()).toMatchObject({
      state: 'blocked',
      reason: { code: 'SITECAST_ATTEMPT_USED' },
    });
    expect(site.count('/chunks/')).toBe(0);
  });

  it('for failing on write, or reading back what was not written, fails the attempt', async () => {
    const real = new FileSlot(join(device.directory, 'b.img'));
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
          // A medium that forgets: every block is written, one comes back as zeros.
          write: (bytes, offset) => writer.write(offset === 0 ? Buffer.alloc(bytes.length) : bytes, offset),
          finish: lengthBytes => writer.finish(lengthBytes),
          close: () => writer.close(),
        };
      },
    };
    await device.open({ slots: { B: failing } });
    expect(await device.cycle()).toMatchObject({
      state: 'failed',
      reason: { code: 'SITECAST_SLOT_UNRELIABLE' },
    });
    expect(await device.parts.boot.read()).toMatchObject({ booted: 'A', next: 'A' });
    expect(device.parts.stateFile.current.slots.B).toMatchObject({ state: 'bad' });
  });
});

const isRoot = process.getuid?.() === 0;

/** Undefined, with the reason printed, where this machine doesn't allow it. */
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
    path = join(device.directory, 'small');
  });
  afterEach(async () => {
    await device.close({ isCut: true });
    try {
      execFileSync('umount', [path], { stdio: 'pipe' });
    } catch {
      // It wasn't mounted.
    }
  });

  it('under the slot keeps the booted slot running, says so, and recovers', async ({ skip }) => {
    if (!mounted(path, '-o', 'size=64k')) skip();
    await device.open({ slots: { B: new FileSlot(join(path, 'b.img')) } });
    expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'space' });
    expect(device.parts.status.current.message).toContain('no space left');
    expect(await device.parts.boot.read()).toMatchObject({ booted: 'A' });
    execFileSync('mount', ['-o', 'remount,size=1m', path]);
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
  });

  it('under the agent keeps the booted slot running, says so, and recovers, telling everything', async ({
    skip,
  }) => {
    if (!mounted(path, '-o', 'size=256k')) skip();
    await device.open({ settings: { data: join(path, 'data') } });
    await device.cycle();
    fleet.rollOut(2);
    await fleet.publish();
    await writeFile(join(path, 'filler'), Buffer.alloc(300_000)).catch(() => {
      // Full: as it should be.
    });
    expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'space' });
    expect(device.parts.status.current.storageProblem).toContain('ENOSPC');
    expect(await device.parts.boot.read()).toMatchObject({ booted: 'B' });
    rmSync(join(path, 'filler'));
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    expect(told().filter(({ state }) => state === 'completed')).toHaveLength(2);
  });

  it('read-only under the slot fails the attempt', async ({ skip }) => {
    if (!mounted(path, '-o', 'ro')) skip();
    await device.open({ slots: { B: new FileSlot(join(path, 'b.img')) } });
    expect(await device.cycle()).toMatchObject({
      state: 'failed',
      reason: { code: 'SITECAST_SLOT_READ_ONLY' },
    });
  });
});
