import { mkdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SitecastError } from '@sitecast/shared/errors';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { SlotName } from '../ports.ts';
import { BOOT_MACHINES, type BootChange, type BootMachine, order } from '../testing/boot-machines.ts';
import {
  choicesFor,
  DiskHistory,
  digestOf,
  everything,
  filesIn,
  putFiles,
  recordWrites,
  whyNoRecording,
} from '@sitecast/shared/testing/disk';

// One suite for all boot controls: the result of each change, and the state after a power cut between any two writes of it, including the
// writes of child processes.

const ORDER = fileURLToPath(new URL('../../dist/testing/boot-order.js', import.meta.url));
const noRecording = whyNoRecording();

interface Case {
  what: string;
  /** What has happened before to a machine whose slot A is good: changes, and boots. */
  before: readonly (BootChange | 'boot')[];
  /** The slot that runs when the change is ordered. */
  booted: SlotName;
  change: BootChange;
  /** The slots that the following boots run. */
  boots: readonly SlotName[];
  /** Slots that may run after a power cut during the change; the last one is the one that runs in the end. */
  may: readonly SlotName[];
  end: readonly SlotName[];
}

const CLOSED: readonly (BootChange | 'boot')[] = [['markBad', 'B']];
const TRIED: readonly (BootChange | 'boot')[] = [...CLOSED, ['setTrial', 'B', 2], 'boot'];
const MOVED: readonly (BootChange | 'boot')[] = [...TRIED, ['confirm', 'B']];

// Before slot B is on trial, its content is arbitrary, so booting it would be wrong.
const CASES: readonly Case[] = [
  {
    what: 'closing a slot before it is written',
    before: [],
    booted: 'A',
    change: ['markBad', 'B'],
    boots: ['A', 'A', 'A'],
    may: ['A'],
    end: ['A'],
  },
  {
    what: 'a trial, which ends after exactly its tries',
    before: CLOSED,
    booted: 'A',
    change: ['setTrial', 'B', 2],
    boots: ['B', 'B', 'A', 'A'],
    may: ['A', 'B'],
    end: ['A'],
  },
  {
    what: 'confirming the slot on trial',
    before: TRIED,
    booted: 'B',
    change: ['confirm', 'B'],
    boots: ['B', 'B', 'B', 'B'],
    may: ['A', 'B'],
    end: ['A', 'B'],
  },
  {
    what: 'confirming the slot in its last try',
    before: [...TRIED, 'boot'],
    booted: 'B',
    change: ['confirm', 'B'],
    boots: ['B', 'B', 'B', 'B'],
    may: ['A', 'B'],
    end: ['A', 'B'],
  },
  {
    what: 'giving up the slot on trial',
    before: TRIED,
    booted: 'B',
    change: ['setNext', 'A'],
    boots: ['A', 'A', 'A'],
    may: ['A', 'B'],
    end: ['A'],
  },
  {
    what: 'closing the slot that was given up',
    before: [...TRIED, ['setNext', 'A'], 'boot'],
    booted: 'A',
    change: ['markBad', 'B'],
    boots: ['A', 'A', 'A'],
    may: ['A'],
    end: ['A'],
  },
  {
    what: 'closing the slot on trial, where the trial could not be begun',
    before: [...CLOSED, ['setTrial', 'B', 2]],
    booted: 'A',
    change: ['markBad', 'B'],
    boots: ['A', 'A', 'A'],
    may: ['A', 'B'],
    end: ['A'],
  },
  {
    what: 'closing the other slot, after the move',
    before: MOVED,
    booted: 'B',
    change: ['markBad', 'A'],
    boots: ['B', 'B', 'B'],
    may: ['B'],
    end: ['B'],
  },
  {
    what: 'a trial of the first slot again, with one try',
    before: [...MOVED, ['markBad', 'A']],
    booted: 'B',
    change: ['setTrial', 'A', 1],
    boots: ['A', 'B', 'B'],
    may: ['A', 'B'],
    end: ['B'],
  },
];

/** More boots than any trial has here. */
const MANY_BOOTS = 4;

let directory: string;
let machines = 0;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-boot-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const codeOf = (error: unknown) => (error instanceof SitecastError ? error.code : String(error));

/** A machine with these files. */
function machineOf(files: ReadonlyMap<string, Buffer>): string {
  machines += 1;
  const path = join(directory, String(machines));
  mkdirSync(path);
  putFiles(path, files);
  return path;
}

async function machineBefore(machine: BootMachine, { before, booted }: Case): Promise<string> {
  const path = machineOf(new Map());
  await machine.create(path);
  let runs: SlotName = 'A';
  for (const step of before) {
    if (step === 'boot') runs = await machine.boot(path);
    else await order(machine.open(path, runs), step);
  }
  expect(runs).toBe(booted);
  return path;
}

/** Each state of the disk that a power cut may leave, once, with the first cut that leaves it. */
function disksOf(history: DiskHistory): [cut: number, left: ReadonlyMap<string, Buffer>][] {
  const disks = new Map<string, [cut: number, left: ReadonlyMap<string, Buffer>]>();
  for (let cut = 0; cut <= history.length; cut += 1)
    for (const choice of choicesFor(cut, { seed: 1, count: 6 })) {
      const disk = history.after(cut, choice);
      const digest = digestOf(disk);
      if (!disks.has(digest)) disks.set(digest, [cut, disk.files]);
    }
  return [...disks.values()];
}

async function bootsOf(machine: BootMachine, path: string, count: number): Promise<SlotName[]> {
  const slots: SlotName[] = [];
  for (let at = 0; at < count; at += 1) slots.push(await machine.boot(path));
  return slots;
}

const machinesHere = Object.entries<BootMachine>(BOOT_MACHINES).map(
  ([name, machine]) => [name, machine, machine.whyNot?.()] as const,
);

describe.each(machinesHere)('boot control `%s`', (name, machine, whyNot) => {
  beforeEach(context => {
    if (whyNot !== undefined) context.skip(whyNot);
  });

  it('says what its boot loader can do, and no more than that', async () => {
    const path = machineOf(new Map());
    await machine.create(path);
    const control = machine.open(path, 'A');
    const { maxTries, countsHangs, isAtomic } = await control.capabilities();
    expect(maxTries ?? 2).toBeGreaterThanOrEqual(2);
    expect([countsHangs, isAtomic]).toEqual([true, true]);
    // A boot program that gives no number refuses with a message of its own.
    const refused =
      maxTries !== undefined
        ? await control.setTrial('B', maxTries + 1).then(() => 'done', codeOf)
        : 'SITECAST_BOOT_REFUSED';
    expect(refused).toBe('SITECAST_BOOT_REFUSED');
    expect(await bootsOf(machine, path, 2)).toEqual(['A', 'A']);
  });

  it('says which slot runs, which is next, and which boot this is', async () => {
    const path = machineOf(new Map());
    await machine.create(path);
    const control = machine.open(path, 'A');
    const { bootId } = await control.start();
    expect(await control.read()).toEqual({ booted: 'A', next: 'A', bootId });
    await control.markBad('B');
    expect(await control.read()).toEqual({ booted: 'A', next: 'A', bootId });
    await control.setTrial('B', 2);
    const { trial, ...others } = await control.read();
    expect(others).toEqual({ booted: 'A', next: 'B', bootId });
    // A boot program needn't say it.
    expect(trial).toEqual(name === 'command' ? undefined : { slot: 'B', triesLeft: 2 });
    await control.setNext('A');
    expect(await control.read()).toEqual({ booted: 'A', next: 'A', bootId });
  });

  it.each(CASES)('carries out: $what', async tried => {
    const path = await machineBefore(machine, tried);
    await order(machine.open(path, tried.booted), tried.change);
    // Each change may be ordered again, with the same result.
    await order(machine.open(path, tried.booted), tried.change);
    expect(await bootsOf(machine, path, tried.boots.length)).toEqual(tried.boots);
  });

  it.skipIf(noRecording !== undefined).each(CASES)(
    'boots a valid slot after a power cut between any two writes of: $what, whatever the disk has kept',
    async tried => {
      const path = await machineBefore(machine, tried);
      const before = filesIn(path);
      const program = [process.execPath, ORDER, name, path, tried.booted, JSON.stringify(tried.change)];
      const changes = await recordWrites(path, program);
      expect(changes.at(-1)).toEqual({ kind: 'mark', name: 'end' });
      // The recording is complete: replaying it gives the files that are there.
      const history = new DiskHistory(before, changes);
      expect(history.after(changes.length, everything).files).toEqual(filesIn(path));
      expect(changes.filter(({ kind }) => kind === 'write').length).toBeGreaterThan(0);
      for (const [cut, left] of disksOf(history)) {
        const boots = await bootsOf(machine, machineOf(left), MANY_BOOTS);
        expect({ cut, is: tried.may.includes(boots[0] ?? 'A') }).toEqual({ cut, is: true });
        expect({ cut, is: tried.end.includes(boots.at(-1) ?? 'A'), boots }).toMatchObject({ cut, is: true });
        // The agent orders the change again if the same slot is running.
        const again = machineOf(left);
        if ((await machine.boot(again)) !== tried.booted) continue;
        await order(machine.open(again, tried.booted), tried.change);
        expect({ cut, boots: await bootsOf(machine, again, tried.boots.length) }).toEqual({
          cut,
          boots: tried.boots,
        });
      }
    },
  );
});
