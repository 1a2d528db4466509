import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeCopy } from '@sitecast/shared/durable';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileBootControl } from './file-boot.ts';

let directory: string;
let path: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-file-boot-'));
  path = join(directory, 'boot.json');
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const state = {
  format: 'sitecast-boot-1',
  booted: 'A',
  bootId: 'then',
  next: 'A',
  trial: null,
  bad: [],
  isStopped: false,
};
const trialOf = (slot: 'A' | 'B') => ({ slot, triesLeft: 2 });

/** A boot control whose state file is damaged, with a copy from an earlier day. */
async function control(copy: object): Promise<FileBootControl> {
  await writeFile(path, 'damaged');
  await writeCopy(path, JSON.stringify({ ...state, ...copy }));
  return new FileBootControl(path, { firstSlot: 'A', afterBoot: async () => {} });
}

it('deletes at its start what a killed agent had begun to write beside it, and nothing else', async () => {
  const begun = (name: string) => `${name}.0123456789ab.partial`;
  for (const name of ['boot.json', 'boot.json.copy', 'a.img'])
    await writeFile(join(directory, begun(name)), '');
  await new FileBootControl(path, { firstSlot: 'A', afterBoot: async () => {} }).start();
  expect((await readdir(directory)).toSorted()).toEqual([begun('a.img'), 'boot.json', 'boot.json.copy']);
});

describe('a copy of the boot state, where the state itself is damaged,', () => {
  it('restores a trial that the agent knows to be under way', async () => {
    const boot = await control({ trial: trialOf('B') });
    expect(await boot.start({ slots: ['A', 'B'], onTrial: 'B' })).toMatchObject({ booted: 'B', next: 'B' });
    await boot.reboot();
    // The number of remaining tries is restored, too.
    expect(await boot.read()).toMatchObject({ booted: 'B', next: 'A' });
  });

  it.each([
    ['a trial that has ended', { trial: trialOf('B') }, { slots: ['A'], onTrial: undefined }, 'A'],
    [
      'a trial of the slot that is on none',
      { trial: trialOf('A') },
      { slots: ['A', 'B'], onTrial: 'B' },
      'A',
    ],
    ['a fall-back that has ended', { next: 'B' }, { slots: ['A'], onTrial: undefined }, 'A'],
    ['a slot that ran then', { booted: 'B', next: 'B' }, { slots: ['A'], onTrial: undefined }, 'A'],
    ['a state from before the slot was proved', {}, { slots: ['B', 'A'], onTrial: 'B' }, 'B'],
    [
      'a trial, where the agent remembers none',
      { trial: trialOf('B') },
      { slots: [], onTrial: undefined },
      'A',
    ],
    [
      'a trial that was being proved, where the agent remembers none',
      { booted: 'B', trial: trialOf('B'), isStopped: true },
      { slots: [], onTrial: undefined },
      'A',
    ],
  ] as const)('does not restore %s', async (_what, copy, remembered, slot) => {
    const boot = await control(copy);
    expect(await boot.start(remembered)).toMatchObject({ booted: slot, next: slot });
    await boot.reboot();
    expect(await boot.read()).toMatchObject({ booted: slot, next: slot });
  });
});
