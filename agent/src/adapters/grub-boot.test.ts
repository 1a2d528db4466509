import { execFileSync } from 'node:child_process';
import { lstat, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { SlotName } from '../ports.ts';
import { BOOT_MACHINES } from '../testing/boot-machines.ts';
import { runGrub, whyNoGrub } from '../testing/grub-emu.ts';
import { blockAt, evaluateGrub, GRUB_CFG, type GrubHardware } from '../testing/grub-machine.ts';
import {
  DiskHistory,
  everything,
  filesIn,
  recordWrites,
  whyNoRecording,
} from '@sitecast/shared/testing/disk';
import { formatGrubBlock, GrubEnvironment, parseGrubBlock } from './grub-boot.ts';

const noGrub = whyNoGrub();
let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-grub-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

type Noted = Record<string, string>;
const blockOf = (variables: Noted): Buffer => formatGrubBlock(new Map(Object.entries(variables)), 'a test');
const noted = (order: string, a: readonly [number, number], b: readonly [number, number]): Noted => ({
  ORDER: order,
  A_OK: String(a[0]),
  A_LEFT: String(a[1]),
  B_OK: String(b[0]),
  B_LEFT: String(b[1]),
});
const GOOD = [1, 0] as const;
const BAD = [0, 0] as const;
const trial = (left: number) => [0, left] as const;

interface State {
  what: string;
  grubenv?: Noted | Uint8Array;
  confirmed?: SlotName;
  hardware?: GrubHardware;
  /** The slot that boots, and what the block then contains for a counted slot. */
  slot: SlotName | undefined;
  left?: Noted;
}

const damaged = blockOf(noted('A B', GOOD, GOOD));
damaged.write('$', 0);

const STATES: readonly State[] = [
  { what: 'a new machine without any state', slot: 'A' },
  {
    what: 'a new machine whose slot A does not load',
    hardware: { broken: ['A'] },
    slot: 'B',
  },
  { what: 'a block without the variables', grubenv: { saved_entry: '0' }, slot: 'A' },
  { what: 'a good slot', grubenv: noted('B A', BAD, GOOD), confirmed: 'B', slot: 'B' },
  ...[3, 2, 1].map(left => ({
    what: `a trial with ${left} starts left`,
    grubenv: noted('B A', GOOD, trial(left)),
    confirmed: 'A' as const,
    slot: 'B' as const,
    left: { B_LEFT: String(left - 1) },
  })),
  {
    what: 'a trial of the first slot',
    grubenv: noted('A B', trial(2), GOOD),
    confirmed: 'B',
    slot: 'A',
    left: { A_LEFT: '1' },
  },
  {
    what: 'a trial whose starts are used up',
    grubenv: noted('B A', GOOD, trial(0)),
    confirmed: 'A',
    slot: 'A',
  },
  {
    what: 'a trial that can not be counted, on a read-only boot partition',
    grubenv: noted('B A', GOOD, trial(2)),
    confirmed: 'A',
    hardware: { isReadOnly: true },
    slot: 'A',
  },
  {
    what: 'a number of starts that GRUB can not count',
    grubenv: noted('B A', GOOD, trial(9)),
    confirmed: 'A',
    slot: 'A',
  },
  {
    what: 'a trial whose kernel does not load',
    grubenv: noted('B A', GOOD, trial(2)),
    confirmed: 'A',
    hardware: { broken: ['B'] },
    slot: 'A',
    left: { B_LEFT: '1' },
  },
  {
    what: 'a good slot whose kernel does not load, and the other one good as well',
    grubenv: noted('B A', GOOD, GOOD),
    confirmed: 'B',
    hardware: { broken: ['B'] },
    slot: 'A',
  },
  {
    what: 'a good slot whose kernel does not load, and the other one closed',
    grubenv: noted('B A', BAD, GOOD),
    confirmed: 'B',
    hardware: { broken: ['B'] },
    slot: undefined,
  },
  { what: 'an empty block', grubenv: Buffer.alloc(0), confirmed: 'B', slot: 'B' },
  { what: 'a missing block', confirmed: 'B', slot: 'B' },
  { what: 'a damaged block', grubenv: damaged, confirmed: 'B', slot: 'B' },
  { what: 'a block of zeros', grubenv: Buffer.alloc(1024), confirmed: 'B', slot: 'B' },
  { what: 'an order that is none', grubenv: noted('C', GOOD, GOOD), confirmed: 'B', slot: 'B' },
  {
    what: 'a lost note of the confirmed slot',
    grubenv: noted('B A', BAD, GOOD),
    slot: 'B',
  },
  {
    what: 'an empty block on a read-only boot partition',
    grubenv: Buffer.alloc(0),
    confirmed: 'B',
    hardware: { isReadOnly: true },
    slot: 'B',
  },
  {
    what: 'a block in which neither slot may start',
    grubenv: noted('A B', BAD, BAD),
    confirmed: 'B',
    slot: 'B',
  },
];

async function partitionOf({ grubenv, confirmed }: State, name: string): Promise<string> {
  const path = join(directory, name);
  await mkdir(path);
  if (grubenv !== undefined)
    await writeFile(join(path, 'grubenv'), grubenv instanceof Uint8Array ? grubenv : blockOf(grubenv));
  if (confirmed !== undefined)
    await writeFile(join(path, 'grubenv.confirmed'), blockOf({ CONFIRMED: confirmed }));
  return path;
}

describe('the shipped grub.cfg', () => {
  it.each(STATES)('boots the right slot from: $what', async state => {
    const { slot, left = {}, hardware, grubenv } = state;
    const path = await partitionOf(state, 'evaluated');
    expect(evaluateGrub(path, hardware)).toMatchObject({ slot });
    const before = grubenv === undefined || grubenv instanceof Uint8Array ? undefined : grubenv;
    const now = blockAt(join(path, 'grubenv'));
    expect(now && Object.fromEntries(now)).toEqual(before && { ...before, ...left });
  });

  it.skipIf(noGrub !== undefined).each(STATES)('does the same in the real GRUB, from: $what', async state => {
    const [evaluated, real] = [await partitionOf(state, 'evaluated'), await partitionOf(state, 'real')];
    // GRUB would begin again after "no slot starts"; here it can't load a kernel, and stops.
    expect(evaluateGrub(evaluated, state.hardware).slot).toBe(state.slot);
    expect(runGrub(real, state.hardware).slot).toBe(state.slot);
    expect(filesIn(real)).toEqual(filesIn(evaluated));
  });

  it.skipIf(noGrub !== undefined)('takes from slots.cfg what differs from machine to machine', async () => {
    const path = await partitionOf({ what: '', slot: 'A' }, 'real');
    const text = 'set A_DEVICE="(hd0,msdos2)"\nset A_ROOT="/dev/vda2"\nset KERNEL="/vmlinuz"\n';
    await writeFile(join(path, 'slots.cfg'), text);
    expect(runGrub(path).lines.join('\n')).toContain(
      'BOOTS (hd0,msdos2)/vmlinuz root=/dev/vda2 sitecast.slot=A',
    );
  });

  it('boots a valid slot where a power cut tears the write of a block between its two sectors', async () => {
    const [tried, good] = [noted('B A', GOOD, trial(2)), noted('B A', GOOD, GOOD)];
    const menu = { menu: 'x'.repeat(700) };
    for (const [before, after] of [
      [good, tried],
      [tried, good],
      [noted('A B', GOOD, BAD), tried],
    ]) {
      const [old, fresh] = [blockOf({ ...before, ...menu }), blockOf({ ...after, ...menu })];
      for (const [first, second] of [
        [fresh, old],
        [old, fresh],
      ] as const) {
        const path = join(directory, 'torn');
        await mkdir(path, { recursive: true });
        const block = Buffer.concat([first, second].map(part => part.subarray(0, 512)));
        second.copy(block, 512, 512);
        await writeFile(join(path, 'grubenv'), block);
        const untorn = first === fresh ? after : before;
        expect(Object.fromEntries(blockAt(join(path, 'grubenv')) ?? [])).toEqual({ ...untorn, ...menu });
        expect(evaluateGrub(path).slot).toBe(untorn?.ORDER?.[0]);
      }
    }
  });

  it.skipIf(noGrub !== undefined)('is a valid GRUB script', () => {
    expect(execFileSync('grub-script-check', [GRUB_CFG]).toString()).toBe('');
  });
});

describe('an environment block', () => {
  it('keeps other variables, and values with backslashes and line feeds, after those of the slots', () => {
    const others = new Map([
      ['saved_entry', 'a\\b\nc'],
      ['menu', 'x=y'],
    ]);
    const block = formatGrubBlock(new Map([...others, ['ORDER', 'A B']]), 'it');
    expect(block.length).toBe(1024);
    expect(parseGrubBlock(block)).toEqual(new Map([['ORDER', 'A B'], ...others]));
    expect(block.toString()).toMatch(
      /^# GRUB Environment Block\nORDER=A B\nsaved_entry=a\\\\b\\\nc\nmenu=x=y\n#+$/,
    );
  });

  it('refuses variables that do not fit, and leaves the block unchanged', async () => {
    const path = join(directory, 'grubenv');
    await BOOT_MACHINES.grub.create(directory);
    const full = formatGrubBlock(new Map([...(blockAt(path) ?? []), ['menu', 'x'.repeat(940)]]), path);
    await writeFile(path, full);
    const block = await readFile(path);
    const longer = formatGrubBlock.bind(undefined, new Map([['a', 'x'.repeat(1100)]]), 'it');
    expect(longer).toThrow(expect.objectContaining({ code: 'SITECAST_BOOT_ENVIRONMENT_FAILED' }));
    // The slots' variables fit this one, as their lengths don't change.
    await BOOT_MACHINES.grub.open(directory, 'A').setTrial('B', 2);
    expect(block.length).toBe(1024);
    expect(blockAt(path)?.get('menu')).toBe('x'.repeat(940));
  });

  it.skipIf(noGrub !== undefined)("is compatible with GRUB's own tool", async () => {
    const path = join(directory, 'grubenv');
    await writeFile(path, blockOf({ ORDER: 'B A', saved_entry: 'a\\b' }));
    expect(execFileSync('grub-editenv', [path, 'list']).toString()).toBe('ORDER=B A\nsaved_entry=a\\b\n');
    execFileSync('grub-editenv', [path, 'set', 'B_LEFT=2', 'text=c\\d e']);
    expect(Object.fromEntries(blockAt(path) ?? [])).toEqual({
      ORDER: 'B A',
      saved_entry: 'a\\b',
      B_LEFT: '2',
      text: 'c\\d e',
    });
  });

  it.skipIf(noGrub !== undefined || whyNoRecording() !== undefined)(
    "is empty for a moment where GRUB's own tool sets a variable",
    async () => {
      const path = join(directory, 'grubenv');
      await writeFile(path, blockOf(noted('B A', BAD, GOOD)));
      const before = filesIn(directory);
      const changes = await recordWrites(directory, ['grub-editenv', path, 'set', 'A_OK=1']);
      const history = new DiskHistory(before, changes);
      const lengths = changes.map(
        (_change, at) => history.after(at + 1, everything).files.get('grubenv')?.length,
      );
      expect(lengths).toContain(0);
    },
  );
});

describe('boot control `grub`, where its notes are lost,', () => {
  it.each([
    ['emptied', Buffer.alloc(0), `was damaged`],
    ['missing', undefined, `was missing`],
    ['without them', blockOf({ saved_entry: '0' }), `was without the slots' variables`],
  ] as const)('writes them anew for the slot that runs, and says so (%s)', async (_how, block, lost) => {
    await BOOT_MACHINES.grub.create(directory);
    const path = join(directory, 'grubenv');
    await (block === undefined ? rm(path) : writeFile(path, block));
    const control = BOOT_MACHINES.grub.open(directory, 'B');
    const state = await control.start({ slots: ['B'], onTrial: undefined });
    expect(state).toMatchObject({ booted: 'B', next: 'B', lost: `${path} ${lost}` });
    expect(evaluateGrub(directory).slot).toBe('B');
    expect(blockAt(`${path}.confirmed`)).toEqual(new Map([['CONFIRMED', 'B']]));
    expect(blockAt(path)?.get('saved_entry')).toBe(block?.length === 1024 ? '0' : undefined);
  });

  it.each([
    ['emptied', Buffer.alloc(0)],
    ['damaged', damaged],
    ['too long', Buffer.alloc(3000, '#')],
  ])(
    'overwrites a file that is there: a rename leaves what `e2fsck -p` does not mend (%s)',
    async (_how, content) => {
      await BOOT_MACHINES.grub.create(directory);
      const path = join(directory, 'grubenv');
      await writeFile(path, content);
      const { ino } = await stat(path);
      await BOOT_MACHINES.grub.open(directory, 'B').start({ slots: ['B'], onTrial: undefined });
      expect(await stat(path)).toMatchObject({ ino, size: 1024 });
      expect(evaluateGrub(directory).slot).toBe('B');
    },
  );

  it('gives a slot on trial one more boot, and keeps the other one confirmed', async () => {
    await BOOT_MACHINES.grub.create(directory);
    await writeFile(join(directory, 'grubenv'), '');
    await BOOT_MACHINES.grub.open(directory, 'B').start({ slots: ['A', 'B'], onTrial: 'B' });
    expect([1, 2, 3].map(() => evaluateGrub(directory).slot)).toEqual(['B', 'A', 'A']);
  });

  it('reports no loss on a new machine', async () => {
    expect(await BOOT_MACHINES.grub.open(directory, 'A').start()).not.toHaveProperty('lost');
  });
});

it('keeps both blocks beside the real file where grubenv is a link, also before that file is there', async () => {
  const real = join(directory, 'efi');
  await mkdir(real);
  const link = join(directory, 'grubenv');
  await symlink('efi/grubenv', link);
  const environment = new GrubEnvironment(link);
  for (const good of ['A', 'B'] as const) {
    await environment.write(new Map([['ORDER', 'A B']]), good);
    expect((await readdir(real)).toSorted()).toEqual(['grubenv', 'grubenv.confirmed']);
    expect((await readdir(directory)).toSorted()).toEqual(['efi', 'grubenv']);
    expect(await environment.readLastGood()).toBe(good);
  }
  expect((await lstat(link)).isSymbolicLink()).toBe(true);
});
