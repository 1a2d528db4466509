import { expect, it } from 'vitest';
import type { Change, Files } from './changes.ts';
import { choicesFor } from './choices.ts';
import { DiskHistory } from './disk-history.ts';

// The model by itself: records are written by hand.

const before: Files = new Map([['state', Buffer.from('old')]]);
const text = (bytes: string): Buffer => Buffer.from(bytes);
const sync = (path: string, covers: number): Change => ({ kind: 'sync', path, covers });

const writeAside: Change[] = [
  { kind: 'open', path: 'part', isEmptied: true },
  { kind: 'write', path: 'part', offset: 0, bytes: text('new') },
];
const rename: Change = { kind: 'rename', path: 'part', to: 'state' };

/** All that the model may leave after all these changes: the files as `NAME=CONTENT`. */
function leftBy(changes: readonly Change[], options: { ignoresSyncs?: boolean } = {}, base = before) {
  const history = new DiskHistory(base, changes, options);
  const left = new Set<string>();
  for (const choice of choicesFor(changes.length, { seed: 7, count: 400 }))
    left.add(describe(history.after(changes.length, choice).files));
  return [...left].sort();
}

function describe(files: ReadonlyMap<string, Buffer>): string {
  const shown = [...files].map(([path, bytes]) => `${path}=${bytes.toString().replaceAll('\0', '0')}`);
  return shown.sort().join(' ');
}

it('leaves the old file or the new one of a write that is synced before its rename', () => {
  expect(leftBy([...writeAside, sync('part', 2), rename])).toEqual(['part=new state=old', 'state=new']);
});

it('keeps a rename only once its directory was synced', () => {
  expect(leftBy([...writeAside, sync('part', 2), rename, sync('', 4)])).toEqual(['state=new']);
  expect(leftBy([...writeAside, sync('part', 2), rename, sync('', 4)], { ignoresSyncs: true })).toContain(
    'state=old',
  );
});

it('does not take the fsync of a file after its rename for one of the rename', () => {
  expect(leftBy([...writeAside, rename, sync('state', 3)])).toEqual(['part=new state=old', 'state=new']);
});

it('leaves an empty file of a rename without an fsync before it', () => {
  const left = leftBy([...writeAside, rename, sync('', 3)]);
  expect(left).toEqual(['state=', 'state=000', 'state=new']);
});

it('keeps the name of a new file that was synced, and the directories that lead there', () => {
  const made: Change[] = [
    { kind: 'make-directory', path: 'a' },
    { kind: 'open', path: 'a/f', isEmptied: true },
    { kind: 'write', path: 'a/f', offset: 0, bytes: text('x') },
  ];
  expect(leftBy(made)).toContain('state=old');
  expect(leftBy([...made, sync('a/f', 3)])).toEqual(['a/f=x state=old']);
});

it('does not take an fsync for what was written while it ran', () => {
  const late: Change = { kind: 'write', path: 'part', offset: 3, bytes: text('er') };
  const left = leftBy([...writeAside, late, sync('part', 2)]);
  expect(left).toEqual(['part=new state=old', 'part=new00 state=old', 'part=newer state=old']);
});

it('keeps names of a directory in their order', () => {
  const make = (path: string): Change => ({ kind: 'open', path, isEmptied: true });
  expect(leftBy([make('a'), make('b')])).toEqual(['a= b= state=old', 'a= state=old', 'state=old']);
  // A removal that was lost brings the file back, as it was.
  expect(leftBy([{ kind: 'remove', path: 'state' }])).toEqual(['', 'state=old']);
});

it('has a rename between directories in both or in neither', () => {
  const base = new Map([...before, ['a/x', text('1')], ['b/y', text('2')]]);
  const moved = leftBy([{ kind: 'rename', path: 'a/x', to: 'b/x' }], {}, base);
  expect(moved).toEqual(['a/x=1 b/y=2 state=old', 'b/x=1 b/y=2 state=old']);
});

it('tears a write between sectors, and only there', () => {
  const sector = (letter: string): string => letter.repeat(512);
  const base = new Map([['slot', text(sector('a') + sector('b'))]]);
  const bytes = text(sector('x') + sector('y'));
  const torn = new Set(leftBy([{ kind: 'write', path: 'slot', offset: 0, bytes }], {}, base));
  expect(torn).toEqual(
    new Set(['ab', 'ay', 'xb', 'xy'].map(([one = '', two = '']) => `slot=${sector(one)}${sector(two)}`)),
  );
});

it('never shows the new bytes of a file without the truncation before them', () => {
  const emptied: Change[] = [
    { kind: 'open', path: 'state', isEmptied: true },
    { kind: 'write', path: 'state', offset: 0, bytes: text('NEW!') },
  ];
  expect(leftBy(emptied)).toEqual(['state=', 'state=0000', 'state=NEW!', 'state=old']);
});

it('gives the same choices for the same seed', () => {
  const history = new DiskHistory(before, [...writeAside, rename]);
  const of = (seed: number) =>
    Array.from(choicesFor(3, { seed, count: 40 }), choice => describe(history.after(3, choice).files)).join();
  expect(of(5)).toBe(of(5));
  expect(of(5)).not.toBe(of(6));
});
