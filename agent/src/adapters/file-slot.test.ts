import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LoopDevices, whyNoLoopDevices } from '../testing/loop-devices.ts';
import { FileSlot } from './file-slot.ts';

const MIB = 1024 * 1024;
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

it('ends a file with the image, and reads it at any offset and length', async () => {
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

it('does not read a missing file, and does not write to a directory', async () => {
  expect(await new FileSlot(join(directory, 'none')).openForReading()).toBeUndefined();
  await expect(new FileSlot(directory).openForWriting()).rejects.toMatchObject({
    code: 'SITECAST_SLOT_UNUSABLE',
  });
});

describe.skipIf(whyNoLoopDevices() !== undefined)('a block device', () => {
  const devices = new LoopDevices();
  afterEach(() => devices.release());

  it('has a size, keeps its length and is read past the page cache', async () => {
    const slot = new FileSlot(devices.create(join(directory, 'backing'), 4 * MIB));
    expect(await slot.capacityBytes()).toBe(4 * MIB);
    const image = randomBytes(1_500_000);
    await written(slot, image);
    const { bytes, isDirect } = await readBack(slot, 0, image.length);
    expect(sha256(bytes)).toBe(sha256(image));
    expect(isDirect).toBe(true);
    const writer = await slot.openForWriting();
    await expect(writer.write(Buffer.alloc(8192), 4 * MIB - 4096)).rejects.toMatchObject({
      code: 'SITECAST_SLOT_FULL',
    });
    await writer.close();
  });

  it('without a medium or a driver is reported as missing, not as too small or failed', async () => {
    const empty = new FileSlot(devices.create(join(directory, 'backing'), 0));
    await expect(empty.capacityBytes()).rejects.toMatchObject({ code: 'SITECAST_SLOT_MISSING' });
    const slot = new FileSlot(join(directory, 'node'));
    // No driver has this number: it is reserved for "local and experimental use".
    execFileSync('mknod', [slot.path, 'b', '240', '0']);
    for (const open of [
      () => slot.capacityBytes(),
      () => slot.openForWriting(),
      () => slot.openForReadBack(),
    ])
      await expect(open()).rejects.toMatchObject({ code: 'SITECAST_SLOT_MISSING' });
  });

  it('whose medium fails reports it when the written data is made durable', async () => {
    const small = await mkdtemp(join(directory, 'small-'));
    devices.mount('-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small);
    const slot = new FileSlot(devices.create(join(small, 'backing'), MIB));
    const writer = await slot.openForWriting();
    await writer.write(randomBytes(MIB), 0);
    await expect(writer.finish(MIB)).rejects.toMatchObject({
      code: 'SITECAST_SLOT_UNRELIABLE',
      data: { operation: 'fsync', system: 'EIO' },
    });
    await writer.close();
  });

  it.each([['rw'], ['ro']])('that is mounted (%s) is not opened for writing', async how => {
    const device = devices.create(join(directory, 'backing'), MIB);
    devices.format(device);
    const point = await mkdtemp(join(directory, 'mnt-'));
    devices.mount('-o', how, device, point);
    const slot = new FileSlot(device);
    await expect(slot.openForWriting()).rejects.toMatchObject({ code: 'SITECAST_SLOT_BUSY' });
    devices.unmount(point);
    await (await slot.openForWriting()).close();
  });

  it('whose partition is mounted is not opened for writing, nor is a partition of a mounted disk', async () => {
    const disk = devices.create(join(directory, 'backing'), 8 * MIB);
    const [first, second] = devices.partition(disk, 8 * MIB);
    devices.format(first);
    const point = await mkdtemp(join(directory, 'mnt-'));
    devices.mount(first, point);
    await expect(new FileSlot(disk).openForWriting()).rejects.toMatchObject({ code: 'SITECAST_SLOT_BUSY' });
    await (await new FileSlot(second).openForWriting()).close();
  });

  it('that is mounted keeps its file from being written; one that is only attached does not', async () => {
    const slot = new FileSlot(join(directory, 'slot.img'));
    const device = devices.create(slot.path, MIB);
    devices.format(device);
    await (await slot.openForWriting()).close();
    const point = await mkdtemp(join(directory, 'mnt-'));
    devices.mount('-o', 'ro', device, point);
    await expect(slot.openForWriting()).rejects.toMatchObject({
      code: 'SITECAST_SLOT_BUSY',
      message: expect.stringContaining(device),
    });
    // The same applies to a device on top of the device.
    const over = devices.attach(device);
    devices.unmount(point);
    devices.mount('-o', 'ro', over, point);
    for (const path of [slot.path, device])
      await expect(new FileSlot(path).openForWriting()).rejects.toMatchObject({ code: 'SITECAST_SLOT_BUSY' });
  });
});
