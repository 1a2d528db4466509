import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { temporaryDirectory } from '../../testing/setup.ts';
import { DiskFiles } from './disk-files.ts';

let directory: ReturnType<typeof temporaryDirectory>;
let files: DiskFiles;
beforeEach(() => {
  directory = temporaryDirectory();
  files = new DiskFiles(directory.path);
});
afterEach(() => directory.remove());

const at = (path: string) => join(directory.path, path);

it('shows a file under its name once it is complete, and never if it is discarded', async () => {
  const writer = await files.writer('a');
  await writer.write(Buffer.from('one '));
  await writer.write(Buffer.from('two'));
  expect(readdirSync(directory.path)).toEqual([expect.stringMatching(/^a\..*\.partial$/)]);
  await writer.finish();
  await writer.discard();
  expect(readFileSync(at('a'), 'utf8')).toBe('one two');
  const other = await files.writer('b');
  await other.write(Buffer.from('x'));
  await other.discard();
  await other.discard();
  expect(readdirSync(directory.path)).toEqual(['a']);
});

it('finds regular files only', async () => {
  writeFileSync(at('file'), 'abc');
  mkdirSync(at('folder'));
  symlinkSync('nowhere', at('broken'));
  const found = [];
  for await (const { name, lengthBytes } of files.list('.')) found.push([name, lengthBytes]);
  expect(found).toEqual([['file', 3]]);
  expect(await files.listDirectories('.')).toEqual(['folder']);
  expect(await files.listDirectories('none')).toEqual([]);
  for await (const file of files.list('none')) throw new Error(file.name);
  for (const path of ['folder', 'broken', 'none', 'file/x']) {
    expect([await files.lengthOf(path), await files.open(path)]).toEqual([undefined, undefined]);
  }
  expect(await files.read('none', 10)).toBeUndefined();
  await expect(files.read('file', 2)).rejects.toMatchObject({ code: 'SITECAST_FILE_TOO_LARGE' });
});

it('reads an open file in parts, even after another file has taken its name', async () => {
  writeFileSync(at('a'), 'abcdef');
  const [part, whole, streamed] = [await files.open('a'), await files.open('a'), await files.open('a')];
  await files.writeDurably('a', Buffer.from('other'));
  expect(String(await part?.read(2, 3))).toBe('cde');
  expect(String(await whole?.read(0, 6))).toBe('abcdef');
  expect(await new Response(streamed?.stream(1, 2)).text()).toBe('bc');
  expect(statSync(at('a')).size).toBe(5);
});

it.each([
  ['with one call for all', ['sync', '-f']],
  ['one by one, where there is no such command', ['/nowhere/sync']],
  ['one by one, where the command fails', ['false']],
])('makes many files durable %s', async (_what, [program = '', ...args]) => {
  const names = Array.from({ length: 40 }, (_, number) => `f${number}`);
  for (const name of names) writeFileSync(at(name), name);
  const disk = new DiskFiles(directory.path, [program, ...args]);
  await disk.syncAll([...names, '.']);
  await disk.syncAll(names.slice(0, 2));
  expect(readdirSync(directory.path)).toHaveLength(40);
});

it('names the file that it could not make durable', async () => {
  const disk = new DiskFiles(directory.path, ['false']);
  const names = Array.from({ length: 40 }, (_, number) => `f${number}`);
  await expect(disk.syncAll(names)).rejects.toMatchObject({ code: 'ENOENT' });
});
