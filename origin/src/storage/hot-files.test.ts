import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { DiskFiles } from '../adapters/disk/disk-files.ts';
import { TestClock, temporaryDirectory } from '../testing/setup.ts';
import { HotFiles, MAX_HOT_BYTES } from './hot-files.ts';

let directory: ReturnType<typeof temporaryDirectory>;
let clock: TestClock;
let hot: HotFiles;
beforeEach(() => {
  directory = temporaryDirectory();
  clock = new TestClock();
  hot = new HotFiles(new DiskFiles(directory.path), clock.now);
});
afterEach(() => directory.remove());

const write = (name: string, bytes: string | Buffer) => writeFileSync(join(directory.path, name), bytes);

async function read(name: string, start = 0, lengthBytes?: number): Promise<string | undefined> {
  const file = await hot.open(name);
  return file && String(await file.read(start, lengthBytes ?? file.lengthBytes));
}

it('hands out again what it has read whole, parts of it too, without a disk', async () => {
  write('a', 'abcdef');
  expect(await read('a', 1, 2)).toBe('bc');
  expect(await read('a')).toBe('abcdef');
  rmSync(join(directory.path, 'a'));
  expect(await read('a')).toBe('abcdef');
  expect(await read('a', 1, 2)).toBe('bc');
  const streamed = await hot.open('a');
  expect(await new Response(streamed?.stream(2, 3)).text()).toBe('cde');
});

it('keeps nothing of what was read in part, is not there, or is no file', async () => {
  write('a', 'abcdef');
  mkdirSync(join(directory.path, 'd'));
  await read('a', 0, 3);
  rmSync(join(directory.path, 'a'));
  expect(await read('a')).toBeUndefined();
  expect(await read('d')).toBeUndefined();
  write('a', 'new');
  expect(await read('a')).toBe('new');
});

it('looks at the disk again after ten minutes', async () => {
  write('a', 'spoilt');
  await read('a');
  write('a', 'right!');
  clock.nowMs += 10 * 60_000 - 1;
  expect(await read('a')).toBe('spoilt');
  clock.nowMs += 1;
  expect(await read('a')).toBe('right!');
});

it('lets go of what was used longest ago when it is full', async () => {
  const piece = Buffer.alloc(1024 * 1024);
  const names = Array.from({ length: MAX_HOT_BYTES / piece.length + 1 }, (_, at) => `f${at}`);
  for (const name of names.slice(0, -1)) {
    write(name, piece);
    await read(name);
  }
  await read('f0');
  write(names.at(-1) ?? '', piece);
  await read(names.at(-1) ?? '');
  for (const name of names) rmSync(join(directory.path, name));
  const kept = [];
  for (const name of names) if ((await hot.open(name)) !== undefined) kept.push(name);
  expect(kept).toEqual(names.filter(name => name !== 'f1'));
});
