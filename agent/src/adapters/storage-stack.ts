import type { BigIntStats } from 'node:fs';
import { readdir, readFile, realpath, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { mountOf, readMounts } from './mounts.ts';

const SYSFS = '/sys/dev/block';

/**
 * Identifies the storage of a file or block device by the system's own numbers. Paths can't tell: there may be links, hard links, or a
 * second device node. Ids are `device MAJOR:MINOR` and `file MAJOR:MINOR/INODE`.
 */
export interface Storage {
  id: string;
  /** Its own id, and the ids of everything below it: a partition's disk, a loop device's file, the device of that file's file system. */
  layers: ReadonlySet<string>;
  /** A partition's place on its disk, a loop device's place in its file, and so on downwards. */
  extents: readonly Extent[];
}

/** A range of the storage below, in bytes; `end` is exclusive. */
interface Extent {
  /** Id of the storage below. */
  on: string;
  start: number;
  end: number;
}

const SECTOR_BYTES = 512;

/** @param found of a regular file or a block device */
export const storageId = (found: BigIntStats): string =>
  found.isBlockDevice() ? deviceId(deviceNumber(found.rdev)) : fileId(found);

/** @param found of a regular file or a block device @param path where it was found */
export async function storageOf(found: BigIntStats, path: string): Promise<Storage> {
  const layers = new Set<string>();
  if (!found.isBlockDevice()) {
    await addFile(layers, found, path);
    return { id: storageId(found), layers, extents: [] };
  }
  const device = deviceNumber(found.rdev);
  await addDevice(layers, device);
  return { id: storageId(found), layers, extents: await extentsOf(device) };
}

/** The ids of everything below a directory's file system. */
export async function layersOfDirectory(path: string): Promise<ReadonlySet<string>> {
  const layers = new Set<string>();
  await addFileSystem(layers, await stat(path, { bigint: true }), path);
  return layers;
}

/** Whether a byte written to one may change the other. */
export function isOverlapping(one: Storage, other: Storage): boolean {
  if (one.layers.has(other.id) || other.layers.has(one.id)) return true;
  return one.extents.some(a => other.extents.some(b => a.on === b.on && a.start < b.end && b.start < a.end));
}

/** Loop devices whose bytes are in this storage, as paths of device nodes. */
export async function loopDevicesOn({ id }: Storage): Promise<string[]> {
  const found: string[] = [];
  for (const name of await namesIn('/sys/block')) {
    if (!name.startsWith('loop')) continue;
    const device = await textOf(join('/sys/block', name, 'dev'));
    const backing = await textOf(join('/sys/block', name, 'loop/backing_file'));
    if (device === undefined || backing === undefined || deviceId(device) === id) continue;
    const layers = new Set<string>();
    await addDevice(layers, device);
    if (layers.has(id)) found.push(join('/dev', name));
  }
  return found;
}

/** Names of the block devices that include this one. @param device `MAJOR:MINOR` */
export function holdersOf(device: string): Promise<string[]> {
  return namesIn(join(SYSFS, device, 'holders'));
}

async function addDevice(layers: Set<string>, device: string): Promise<void> {
  if (layers.has(deviceId(device))) return;
  layers.add(deviceId(device));
  const directory = join(SYSFS, device);
  const disk = await diskOf(device);
  if (disk !== undefined) await addDevice(layers, disk);
  for (const name of await namesIn(join(directory, 'slaves'))) {
    const below = await textOf(join(directory, 'slaves', name, 'dev'));
    if (below !== undefined) await addDevice(layers, below);
  }
  const backing = await textOf(join(directory, 'loop/backing_file'));
  if (backing !== undefined) await addPath(layers, backing);
}

async function addPath(layers: Set<string>, path: string): Promise<void> {
  try {
    const found = await stat(path, { bigint: true });
    if (found.isBlockDevice()) await addDevice(layers, deviceNumber(found.rdev));
    else await addFile(layers, found, path);
  } catch {
    // Deleted, or not visible to this process: it stays unknown.
  }
}

async function addFile(layers: Set<string>, found: BigIntStats, path: string): Promise<void> {
  if (layers.has(fileId(found))) return;
  layers.add(fileId(found));
  await addFileSystem(layers, found, path);
}

async function addFileSystem(layers: Set<string>, found: BigIntStats, path: string): Promise<void> {
  const device = deviceNumber(found.dev);
  if ((await textOf(join(SYSFS, device, 'dev'))) !== undefined) {
    await addDevice(layers, device);
    return;
  }
  // Some file systems, such as btrfs, have a number of their own. Their mount names the device.
  const source = mountOf(await realpath(path), await readMounts())?.source;
  if (source?.startsWith('/') === true) await addPath(layers, source);
}

async function extentsOf(device: string): Promise<Extent[]> {
  const disk = await diskOf(device);
  if (disk === undefined) return loopExtentsOf(join(SYSFS, device, 'loop'));
  const start = Number(await textOf(join(SYSFS, device, 'start'))) * SECTOR_BYTES;
  const end = start + Number(await textOf(join(SYSFS, device, 'size'))) * SECTOR_BYTES;
  if (Number.isNaN(end)) return [];
  const below = await extentsOf(disk);
  return [
    { on: deviceId(disk), start, end },
    ...below.map(extent => ({
      on: extent.on,
      start: extent.start + start,
      end: Math.min(extent.end, extent.start + end),
    })),
  ];
}

/** @param directory of sysfs; missing if the device is no loop device */
async function loopExtentsOf(directory: string): Promise<Extent[]> {
  const backing = await textOf(join(directory, 'backing_file'));
  if (backing === undefined) return [];
  const start = Number(await textOf(join(directory, 'offset')));
  const limit = Number(await textOf(join(directory, 'sizelimit')));
  const end = limit > 0 ? start + limit : Number.POSITIVE_INFINITY;
  try {
    const found = await stat(backing, { bigint: true });
    return [{ on: storageId(found), start, end }];
  } catch {
    // Deleted, or not visible to this process: it stays unknown.
    return [];
  }
}

/** The disk of a partition; undefined if the device isn't a partition. */
async function diskOf(device: string): Promise<string | undefined> {
  const directory = join(SYSFS, device);
  if ((await textOf(join(directory, 'partition'))) === undefined) return undefined;
  return textOf(join(dirname(await realpath(directory)), 'dev'));
}

const deviceId = (device: string): string => `device ${device}`;
const fileId = ({ dev, ino }: BigIntStats): string => `file ${deviceNumber(dev)}/${ino}`;

/** `MAJOR:MINOR`, as sysfs writes it, from stat's number (makedev(3)). */
export function deviceNumber(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xffff_f000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffff_ff00n);
  return `${major}:${minor}`;
}

async function textOf(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'utf8')).replace(/\n$/, '');
  } catch {
    // Each of these files exists only for some kinds of devices.
    return undefined;
  }
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch {
    // The same.
    return [];
  }
}
