import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SitecastError } from '@sitecast/shared/errors';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FileSlot } from '../adapters/file-slot.ts';
import type { Slot } from '../ports.ts';
import { StateFile } from '../state/state-file.ts';
import { SlotWatch } from './slots.ts';

let directory: string;
let stateFile: StateFile;
let a: FileSlot;
let b: FileSlot;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-slot-watch-'));
  stateFile = await StateFile.open(directory);
  [a, b] = [new FileSlot(join(directory, 'a.img')), new FileSlot(join(directory, 'b.img'))];
  await writeFile(a.path, 'what runs');
});
afterEach(async () => {
  await rm(directory, { recursive: true });
});

const lookingBy = (look: Slot['look']): Slot => {
  const openForWriting = () => b.openForWriting();
  const rest = { locate: b.locate.bind(b), capacityBytes: b.capacityBytes.bind(b), openForWriting };
  return {
    ...rest,
    path: b.path,
    look,
    openForReading: () => b.openForReading(),
    openForReadBack: () => b.openForReadBack(),
  };
};

it('tells a missing slot from an empty one', async () => {
  const watch = new SlotWatch({ slots: { A: a, B: b }, stateFile });
  expect(await watch.look('A')).toEqual({
    A: { state: 'empty', path: a.path },
    B: { state: 'empty', path: b.path },
  });
  const release = { counter: 1, version: '1.0.0' };
  await stateFile.change({ slots: { ...stateFile.current.slots, B: { state: 'verified', release } } });
  await watch.look('A');
  expect(watch.shown).toMatchObject({
    A: { path: a.path },
    B: { state: 'verified', release, problem: { code: 'SITECAST_SLOT_MISSING' } },
  });
  await writeFile(b.path, '');
  expect((await watch.look('A')).B).toEqual({ state: 'verified', release, path: b.path });
});

it('reports a slot that cannot be read, and does not wait for one that hangs', async () => {
  let isHanging = true;
  let looks = 0;
  let answer = () => {};
  const slot = lookingBy(async () => {
    looks += 1;
    if (!isHanging) throw new SitecastError('failed', 'SITECAST_SLOT_FAILED', 'it fails to read');
    await new Promise<void>(resolve => {
      answer = resolve;
    });
  });
  const watch = new SlotWatch({ slots: { A: a, B: slot }, stateFile }, 20);
  for (let round = 0; round < 3; round += 1)
    expect((await watch.look('A')).B.problem?.message).toBe(`the slot ${b.path} does not answer`);
  // A look blocks a thread in the kernel. More of them would use up all threads.
  expect(looks).toBe(1);
  isHanging = false;
  answer();
  expect((await watch.look('A')).B.problem).toBeUndefined();
  expect((await watch.look('A')).B.problem?.code).toBe('SITECAST_SLOT_FAILED');
});
