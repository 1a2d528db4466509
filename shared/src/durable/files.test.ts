import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { chmod, mkdir, mkdtemp, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { readFileBounded, readPipe, readSecretBounded } from './bounded.ts';
import { describeError } from '../command/index.ts';
import { isSystemError } from '../errors.ts';
import { FullDiskError } from './full-disk.ts';
import {
  createFileDurably,
  makeDirectory,
  removeDurably,
  removePartials,
  writeFileDurably,
} from './files.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-durable-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

it('replaces a whole file, sets the mode, and leaves no other file beside it', async () => {
  const path = join(directory, 'state.json');
  await writeFileDurably(path, 'old');
  await writeFileDurably(path, 'new', 0o600);
  expect(await readFile(path, 'utf8')).toBe('new');
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect(await readdir(directory)).toEqual(['state.json']);
});

it('deletes what a killed process had begun to write, of the caller’s own files alone', async () => {
  const [own, others, look] = ['state.json', 'slot.img', 'notes.partial'];
  const begun = (name: string) => `${name}.0123456789ab.partial`;
  for (const name of [own, begun(own), begun(others), look]) await writeFile(join(directory, name), '');
  await removePartials(directory, name => name === own);
  expect((await readdir(directory)).toSorted()).toEqual([look, begun(others), own].toSorted());
  await removePartials(directory);
  expect((await readdir(directory)).toSorted()).toEqual([look, own].toSorted());
  await removePartials(join(directory, 'none'));
});

it('leaves just the old file when the new one cannot be renamed into place', async () => {
  const path = join(directory, 'taken');
  await mkdir(join(path, 'inside'), { recursive: true });
  await expect(writeFileDurably(path, 'new')).rejects.toThrow(/EISDIR|ENOTEMPTY|EEXIST/);
  expect(await readdir(directory)).toEqual(['taken']);
});

it.skipIf(process.getuid?.() !== 0)(
  'says what a file takes, what is free, and where, if the disk is full (needs root for a tmpfs)',
  async ({ skip }) => {
    try {
      await promisify(execFile)('mount', ['-t', 'tmpfs', '-o', 'size=64k,nr_inodes=20', 'tmpfs', directory]);
    } catch (error) {
      if (process.env.CI) throw error;
      skip(`no tmpfs can be mounted here: ${String(error)}`);
    }
    try {
      const path = join(directory, 'state.json');
      await writeFileDurably(path, 'old');
      const failed = await writeFileDurably(path, Buffer.alloc(100_000)).catch((error: unknown) => error);
      expect(failed).toBeInstanceOf(FullDiskError);
      expect(failed).toMatchObject({ code: 'ENOSPC', path, neededBytes: 100_000, freeBytes: 60 * 1024 });
      expect(isSystemError(failed, 'ENOSPC')).toBe(true);
      expect(describeError(failed).message).toBe(
        `no room for ${path}: it takes 98 KiB, and 60 KiB are free on the file system of ${directory} (ENOSPC)`,
      );
      expect(await readFile(path, 'utf8')).toBe('old');
      for (let at = 0; ; at += 1)
        try {
          await writeFile(join(directory, `${at}`), '');
        } catch {
          break;
        }
      await expect(makeDirectory(join(directory, 'new'))).rejects.toThrow(
        `and the file system of ${directory} takes no more files (ENOSPC)`,
      );
    } finally {
      await promisify(execFile)('umount', [directory]);
    }
  },
);

it('creates a file once: the second time is an error, and the first bytes stay', async () => {
  const path = join(directory, 'key');
  await createFileDurably(path, 'first', 0o600);
  await expect(createFileDurably(path, 'second', 0o600)).rejects.toMatchObject({ code: 'EEXIST' });
  expect(await readFile(path, 'utf8')).toBe('first');
  expect(await readdir(directory)).toEqual(['key']);
});

it('names the requested file in the error of a failed write, not the partial file', async () => {
  const path = join(directory, 'nowhere', 'key');
  const failures = await Promise.allSettled([writeFileDurably(path, ''), createFileDurably(path, '')]);
  for (const failure of failures) {
    expect(failure).toMatchObject({ reason: { code: 'ENOENT', path } });
    expect(String(Reflect.get(failure, 'reason'))).not.toContain('.partial');
  }
});

it('makes nested directories, accepts existing ones, and reports a file in the way', async () => {
  await makeDirectory(join(directory, 'a/b/c'), 0o700);
  await makeDirectory(join(directory, 'a/b/c'));
  expect((await stat(join(directory, 'a/b/c'))).mode & 0o777).toBe(0o700);
  await writeFile(join(directory, 'file'), '');
  await expect(makeDirectory(join(directory, 'file/x'))).rejects.toMatchObject({ code: 'ENOTDIR' });
});

it('makes a directory whose name is one letter, given without its parents', async () => {
  const before = process.cwd();
  process.chdir(directory);
  try {
    await makeDirectory('g');
    await makeDirectory('h/i');
  } finally {
    process.chdir(before);
  }
  expect((await readdir(directory, { recursive: true })).sort()).toEqual(['g', 'h', 'h/i']);
});

it('removes a file, and accepts that there is none', async () => {
  await writeFile(join(directory, 'x'), '');
  await removeDurably(join(directory, 'x'));
  await removeDurably(join(directory, 'x'));
  expect(await readdir(directory)).toEqual([]);
});

it('reads a file at the bound; refuses one byte more, and a directory', async () => {
  const path = join(directory, 'f');
  await writeFile(path, 'x'.repeat(100));
  expect(await readFileBounded(path, 100)).toHaveLength(100);
  await expect(readFileBounded(path, 99)).rejects.toMatchObject({ code: 'SITECAST_FILE_TOO_LARGE' });
  await expect(readFileBounded(directory, 99)).rejects.toMatchObject({ code: 'SITECAST_NOT_A_FILE' });
  await chmod(path, 0o600);
});

const run = promisify(execFile);

it('refuses a pipe and a device at once where a file is expected', async () => {
  const pipe = join(directory, 'pipe');
  await run('mkfifo', [pipe]);
  await expect(readFileBounded(pipe, 99)).rejects.toMatchObject({ code: 'SITECAST_NOT_A_FILE' });
  await expect(readFileBounded('/dev/null', 99)).rejects.toMatchObject({ code: 'SITECAST_NOT_A_FILE' });
});

it('reads a secret from a file, or from a pipe until its end, within the bound', async () => {
  const path = join(directory, 'secret');
  await writeFile(path, 's3cret');
  expect(String(await readSecretBounded(path, 6))).toBe('s3cret');
  await expect(readSecretBounded(path, 5)).rejects.toMatchObject({ code: 'SITECAST_FILE_TOO_LARGE' });
  await expect(readSecretBounded(directory, 5)).rejects.toMatchObject({ code: 'SITECAST_NOT_A_FILE' });
  const pipe = join(directory, 'pipe');
  await run('mkfifo', [pipe]);
  // The reader opens the pipe first and waits for the writer.
  const through = async (text: string, maxBytes: number) => {
    const read = readSecretBounded(pipe, maxBytes);
    await Promise.all([read.catch(() => undefined), writeFile(pipe, text)]);
    return read;
  };
  expect(String(await through('s3cret', 6))).toBe('s3cret');
  await expect(through('s3cret', 5)).rejects.toMatchObject({ code: 'SITECAST_FILE_TOO_LARGE' });
});

it('gives up on a pipe that stays silent or does not end', async () => {
  const pipe = join(directory, 'pipe');
  await run('mkfifo', [pipe]);
  const handle = await open(pipe, constants.O_RDWR | constants.O_NONBLOCK);
  await expect(readPipe(pipe, handle, 99, 50)).rejects.toMatchObject({ code: 'SITECAST_PIPE_SILENT' });
  await handle.write('half');
  await expect(readPipe(pipe, handle, 99, 50)).rejects.toThrow('its writer did not close it');
  await handle.close();
});
