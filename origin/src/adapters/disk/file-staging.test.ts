import { mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { MAX_TARGET_FILE_BYTES } from '../../repository/repository-store.ts';
import type { FileStaging } from '../../staging/ports.ts';
import { hexOf } from '../../testing/operator.ts';
import { TestClock, temporaryDirectory } from '../../testing/setup.ts';
import { DiskFiles } from './disk-files.ts';
import { DiskFileStaging, MAX_STAGED_FILES } from './file-staging.ts';

const clock = new TestClock();
let directory: ReturnType<typeof temporaryDirectory>;
let path: string;
beforeEach(() => {
  directory = temporaryDirectory();
  path = join(directory.path, 'staging/files');
  mkdirSync(path, { recursive: true });
});
afterEach(() => directory.remove());

const open = () => DiskFileStaging.open(new DiskFiles(directory.path), clock.now);
const names = () => readdirSync(path).sort();

async function receive(staged: FileStaging, sha256: string, ...pieces: Buffer[]): Promise<void> {
  const receiver = await staged.receive(sha256);
  try {
    for (const piece of pieces) await receiver.write(piece);
    await receiver.finish();
  } finally {
    await receiver.discard();
  }
}

it('accepts only bytes that match the announced hash, in pieces or twice', async () => {
  const staged = await open();
  const [one, two] = [Buffer.from('one '), Buffer.from('two')];
  const sha256 = hexOf(Buffer.concat([one, two]));
  await receive(staged, sha256, one, two);
  await receive(staged, sha256, one, two);
  await expect(receive(staged, sha256, two)).rejects.toMatchObject({ code: 'SITECAST_HASH_MISMATCH' });
  expect(names()).toEqual([sha256]);
  expect(await (await open()).read(sha256)).toEqual(Buffer.from('one two'));
});

it('returns no file that the disk has damaged', async () => {
  const staged = await open();
  const bytes = Buffer.from('one');
  await receive(staged, hexOf(bytes), bytes);
  writeFileSync(join(path, hexOf(bytes)), 'two');
  expect(await staged.read(hexOf(bytes))).toBeUndefined();
  expect(names()).toEqual([]);
  expect(await staged.read('a'.repeat(64))).toBeUndefined();
});

it('accepts a file of the longest length, and not one byte more', async () => {
  const staged = await open();
  const piece = Buffer.alloc(MAX_TARGET_FILE_BYTES / 2);
  await receive(staged, hexOf(Buffer.concat([piece, piece])), piece, piece);
  await expect(receive(staged, 'a'.repeat(64), piece, piece, Buffer.alloc(1))).rejects.toMatchObject({
    code: 'SITECAST_BODY_TOO_LARGE',
  });
  expect(names()).toHaveLength(1);
});

it(`accepts ${MAX_STAGED_FILES} files, including those found at the start`, async () => {
  for (let count = 0; count < MAX_STAGED_FILES - 1; count += 1) {
    writeFileSync(join(path, count.toString(16).padStart(64, '0')), '');
  }
  const staged = await open();
  const bytes = Buffer.from('one');
  await receive(staged, hexOf(bytes), bytes);
  await expect(staged.receive('a'.repeat(64))).rejects.toMatchObject({ code: 'SITECAST_STAGING_FULL' });
});

it('deletes other files at the start, and old ones on request', async () => {
  const bytes = Buffer.from('one');
  writeFileSync(join(path, hexOf(bytes)), bytes);
  writeFileSync(join(path, `${'a'.repeat(64)}.1234.partial`), 'half');
  utimesSync(join(path, hexOf(bytes)), 1000, 1000);
  const staged = await open();
  expect(names()).toEqual([hexOf(bytes)]);
  expect(await staged.prune(1_000_000)).toBe(0);
  expect(await staged.prune(1_000_001)).toBe(1);
  expect(names()).toEqual([]);
});
