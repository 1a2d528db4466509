import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FileSlot } from './file-slot.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-slot-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

async function written(slot: FileSlot, image: Buffer): Promise<void> {
  const writer = await slot.openForWriting();
  await writer.write(image.subarray(70_000), 70_000);
  await writer.write(image.subarray(0, 70_000), 0);
  await writer.finish(image.length);
  await writer.close();
}

async function readBack(slot: FileSlot, offset: number, lengthBytes: number) {
  const reader = await slot.openForReadBack();
  const parts: Buffer[] = [];
  const isThere = await reader.read(offset, lengthBytes, piece => parts.push(Buffer.from(piece)));
  await reader.close();
  return { isThere, bytes: Buffer.concat(parts), isDirect: reader.isDirect };
}

const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

it('a file is as long as the image afterwards, and reads back at any offset and length', async () => {
  const slot = new FileSlot(join(directory, 'slot'));
  await writeFile(slot.path, randomBytes(5_000_000));
  const image = randomBytes(2_345_678);
  await written(slot, image);
  expect((await stat(slot.path)).size).toBe(image.length);
  for (const [offset, lengthBytes] of [
    [0, 2_345_678],
    [1_048_575, 3],
    [2_345_677, 1],
    [511, 1_500_001],
  ] as const) {
    const { isThere, bytes } = await readBack(slot, offset, lengthBytes);
    expect(isThere).toBe(true);
    expect(sha256(bytes)).toBe(sha256(image.subarray(offset, offset + lengthBytes)));
  }
  expect((await readBack(slot, 2_345_677, 2)).isThere).toBe(false);
});

it('there is nothing to read where there is no file, and nothing to write where it is a directory', async () => {
  expect(await new FileSlot(join(directory, 'none')).openForReading()).toBeUndefined();
  await expect(new FileSlot(directory).openForWriting()).rejects.toMatchObject({
    code: 'SITECAST_SLOT_UNUSABLE',
  });
});

function loopDevice(path: string): string | undefined {
  try {
    return execFileSync('losetup', ['--find', '--show', path], { stdio: 'pipe' }).toString().trim();
  } catch (error) {
    console.log(`skipped: no loop device (${String(error)})`);
    return undefined;
  }
}

it('a block device has a size, keeps its length and is read past the page cache', async ({ skip }) => {
  const backing = join(directory, 'backing');
  await writeFile(backing, '');
  await truncate(backing, 4 * 1024 * 1024);
  const path = loopDevice(backing);
  if (path === undefined) {
    skip();
    return;
  }
  try {
    const slot = new FileSlot(path);
    expect(await slot.capacityBytes()).toBe(4 * 1024 * 1024);
    const image = randomBytes(1_500_000);
    await written(slot, image);
    const { bytes, isDirect } = await readBack(slot, 0, image.length);
    expect(sha256(bytes)).toBe(sha256(image));
    expect(isDirect).toBe(true);
    const writer = await slot.openForWriting();
    await expect(writer.write(Buffer.alloc(8192), 4 * 1024 * 1024 - 4096)).rejects.toMatchObject({
      code: 'SITECAST_SLOT_FULL',
    });
    await writer.close();
  } finally {
    execFileSync('losetup', ['--detach', path]);
  }
});
