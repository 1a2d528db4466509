import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { chunkIdOf, compressFrame } from '@sitecast/shared/content';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { DiskFiles } from '../adapters/disk/disk-files.ts';
import { publishedPath } from '../staging/chunk-paths.ts';
import type { OpenFile } from '../storage/files.ts';
import { hexOf } from '../testing/operator.ts';
import { randomChunks, TestClock, temporaryDirectory } from '../testing/setup.ts';
import { VerifiedFiles } from './verified-files.ts';

const clock = new TestClock();
const DAY_MS = 24 * 3_600_000;
let directory: ReturnType<typeof temporaryDirectory>;
let verified: VerifiedFiles;
let opened: number;
let told: string[];
beforeEach(() => {
  directory = temporaryDirectory();
  opened = 0;
  told = [];
  const disk = new DiskFiles(directory.path);
  const inner = {
    open: (path: string) => {
      opened += 1;
      return disk.open(path);
    },
  };
  verified = new VerifiedFiles({ inner, onDamaged: path => told.push(path), now: clock.now });
});
afterEach(() => directory.remove());

async function write(path: string, bytes: string | Buffer): Promise<void> {
  const full = join(directory.path, path);
  await mkdir(dirname(full), { recursive: true });
  // As the origin writes: aside, then renamed.
  writeFileSync(`${full}.new`, bytes);
  renameSync(`${full}.new`, full);
}

async function read(path: string): Promise<string | undefined> {
  const file: OpenFile | undefined = await verified.open(path);
  return file && (await file.read(0, file.lengthBytes)).toString('base64');
}

const chunk = randomChunks(1)[0] ?? Buffer.alloc(0);
const frame = compressFrame(chunk);
const chunkPath = publishedPath(chunkIdOf(chunk));
const text = Buffer.from('{"a":1}\n');
const targetPath = `repository/targets/products/${hexOf(text)}.camera.json`;

it.each([
  ['chunk', chunkPath, frame],
  ['target file', targetPath, text],
])('reads a %s once, and again when it has changed, and after a day', async (_what, path, bytes) => {
  await write(path, bytes);
  const right = bytes.toString('base64');
  expect(await Promise.all([read(path), read(path)])).toEqual([right, right]);
  opened = 0;
  expect(await read(path)).toBe(right);
  expect(opened).toBe(1);
  await write(path, bytes);
  opened = 0;
  expect(await read(path)).toBe(right);
  expect(opened).toBe(3);
  clock.nowMs += DAY_MS;
  opened = 0;
  expect(await read(path)).toBe(right);
  expect(opened).toBe(3);
  expect(told).toEqual([]);
});

it.each([
  ['chunk', chunkPath, frame],
  ['target file', targetPath, text],
  ['root', 'repository/metadata/1.root.json', Buffer.alloc(0)],
])(
  'tells once of a %s that is wrong, hands it out to nobody, and takes the right one',
  async (_what, path, bytes) => {
    await write(path, 'wrong');
    for (let times = 0; times < 3; times += 1) expect(await read(path)).toBeUndefined();
    expect(told).toEqual([path]);
    await write(path, '');
    expect(await read(path)).toBeUndefined();
    expect(told).toEqual([path, path]);
    rmSync(join(directory.path, path));
    expect(await read(path)).toBeUndefined();
    if (bytes.length === 0) return;
    await write(path, bytes);
    expect(await read(path)).toBe(bytes.toString('base64'));
  },
);

it('hands out as it is what no name vouches for', async () => {
  await write('repository/metadata/3.snapshot.json', 'anything');
  expect(await read('repository/metadata/3.snapshot.json')).toBe(Buffer.from('anything').toString('base64'));
  expect(opened).toBe(1);
});
