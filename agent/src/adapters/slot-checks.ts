import { constants, type BigIntStats } from 'node:fs';
import { lstat, open, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { SlotPlace } from '../state/agent-state.ts';
import { SLOT_NAMES, type SlotName } from '../ports.ts';
import { isWithin, type Mount, mountOf, readMountPointsOfFstab, readMounts } from './mounts.ts';
import { busySlot, missingSlot, overlappingSlot, slotError, unusableSlot } from './slot-errors.ts';
import {
  deviceNumber,
  isOverlapping,
  layersOfDirectory,
  loopDevicesOn,
  type Storage,
  storageOf,
} from './storage-stack.ts';

const DEVICES = '/dev';
/** File systems without a medium. */
const IN_MEMORY: ReadonlySet<string> = new Set(['tmpfs', 'ramfs', 'rootfs']);

/**
 * The file or device at a slot's path; undefined where there is none. A regular file below /dev isn't a slot: it is in memory, and some
 * program created it because the device of that name was missing.
 * @throws SITECAST_SLOT_UNUSABLE for a directory, a pipe and the like
 */
export async function findSlot(path: string): Promise<BigIntStats | undefined> {
  let found: BigIntStats;
  try {
    found = await stat(path, { bigint: true });
    if (found.isBlockDevice()) return found;
    if (found.isFile()) return (await isAmongDevices(found, await realpath(path))) ? undefined : found;
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return undefined;
    throw slotError(path, 'stat', error);
  }
  throw unusableSlot(path);
}

/** A file or device at a slot's path. */
export interface FoundSlot {
  path: string;
  found: BigIntStats;
}

/** The slots that exist. @throws what `findSlot` throws */
export async function findSlots(paths: readonly string[]): Promise<FoundSlot[]> {
  const found = await Promise.all(paths.map(async path => ({ path, found: await findSlot(path) })));
  return found.filter((slot): slot is FoundSlot => slot.found !== undefined);
}

/**
 * Whether a path is below /dev, or in the same file system mounted elsewhere, as in a container or a chroot.
 * @param path without symbolic links
 */
async function isAmongDevices(found: BigIntStats, path: string): Promise<boolean> {
  if (isWithin(path, DEVICES)) return true;
  if (typeOfFileSystem(found, path, await readMounts()) === 'devtmpfs') return true;
  const [devices, root] = [await deviceOf(DEVICES), await deviceOf('/')];
  return found.dev === devices && devices !== root;
}

async function deviceOf(path: string): Promise<bigint | undefined> {
  try {
    return (await stat(path, { bigint: true })).dev;
  } catch {
    // The system doesn't have that path.
    return undefined;
  }
}

/** @returns undefined where the system doesn't say */
function typeOfFileSystem(
  found: Pick<BigIntStats, 'dev'>,
  path: string,
  mounts: readonly Mount[],
): string | undefined {
  const device = deviceNumber(found.dev);
  return (mounts.find(mount => mount.device === device) ?? mountOf(path, mounts))?.type;
}

/** The type of a directory's file system if that is in memory; otherwise undefined. */
async function memoryTypeOf(directory: string, mounts: readonly Mount[]): Promise<string | undefined> {
  const type = typeOfFileSystem(await stat(directory, { bigint: true }), directory, mounts);
  return type !== undefined && IN_MEMORY.has(type) ? type : undefined;
}

/**
 * See `Slot.locate`. A file may be created only where the path surely means a new file: not among device nodes, not in memory, not through
 * a link, only with its file system mounted, and only if no file was there before.
 * @param data the agent's own directory. Its file system is mounted, otherwise the agent couldn't read its state
 */
export async function locateSlot(
  path: string,
  remembered: SlotPlace | undefined,
  data: string | undefined,
): Promise<SlotPlace> {
  const found = await findSlot(path);
  if (found?.isBlockDevice() === true) return { path, isThere: true };
  const known = remembered?.path === path ? remembered : undefined;
  const directory = await directoryOfFile(path, found !== undefined);
  const mounts = await readMounts();
  const absent = absentMount(directory, [known?.mountPoint, ...(await readMountPointsOfFstab())], mounts);
  if (absent !== undefined)
    throw missingSlot(path, `is a file below ${absent}, where nothing is mounted at present`);
  if (!found && known?.isThere === true)
    throw missingSlot(path, 'was there and is gone; an empty file there is filled anew');
  if (!found) await refuseInMemory(path, directory, data, mounts);
  const mountPoint = ownMountPoint(directory, mounts);
  const isVouchedFor = mountPoint === undefined || (data !== undefined && isWithin(data, mountPoint));
  return { path, isThere: found !== undefined, ...(isVouchedFor ? {} : { mountPoint }) };
}

/**
 * An image in memory would be gone after the boot that tries it. It is accepted only where the agent's own data are in memory, too, as in
 * a demo.
 */
async function refuseInMemory(
  path: string,
  directory: string,
  data: string | undefined,
  mounts: readonly Mount[],
): Promise<void> {
  const type = await memoryTypeOf(directory, mounts);
  if (type === undefined || data === undefined) return;
  if ((await memoryTypeOf(await nearest(data), mounts)) !== undefined) return;
  throw missingSlot(path, `is not there, and is not made in memory (${type}), where no boot would find it`);
}

/** @returns the directory of the existing or future file, without links */
async function directoryOfFile(path: string, isThere: boolean): Promise<string> {
  try {
    if (isThere) return dirname(await realpath(path));
    const directory = await realpath(dirname(path));
    if (await isAmongDevices(await stat(directory, { bigint: true }), join(directory, basename(path))))
      throw missingSlot(path, 'is the name of a device that is not there');
    if (await isLink(path)) throw missingSlot(path, 'is a symbolic link to what is not there');
    return directory;
  } catch (error) {
    throw slotError(path, 'stat', error);
  }
}

async function isLink(path: string): Promise<boolean> {
  try {
    return (await lstat(path)).isSymbolicLink();
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return false;
    throw error;
  }
}

/** The expected mount point at or above the directory where nothing is mounted. Pure. */
export function absentMount(
  directory: string,
  expected: readonly (string | undefined)[],
  mounts: readonly Mount[],
): string | undefined {
  // The system doesn't say what is mounted, so nothing can be concluded.
  if (mounts.length === 0) return undefined;
  return expected.find(
    place =>
      place !== undefined &&
      isWithin(directory, place) &&
      !mounts.some(({ mountPoint }) => mountPoint === place),
  );
}

/**
 * Where the file system of a directory is mounted; undefined for that of `/`. Pure. A service's sandbox mounts directories over themselves;
 * they count as part of the file system that they are in.
 */
export function ownMountPoint(directory: string, mounts: readonly Mount[]): string | undefined {
  const mount = mountOf(directory, mounts);
  if (!mount || mount.mountPoint === '/') return undefined;
  const parent = dirname(mount.mountPoint);
  return mountOf(parent, mounts)?.device === mount.device ? ownMountPoint(parent, mounts) : mount.mountPoint;
}

/**
 * The last check before anything is written, on the opened file or device.
 * @throws SITECAST_SLOT_OVERLAP, SITECAST_SLOT_BUSY, SITECAST_SLOT_MISSING where the other slot can't be compared with
 */
export async function refuseUnsafe(
  path: string,
  opened: BigIntStats,
  other: string | undefined,
): Promise<void> {
  if (!opened.isFile() && !opened.isBlockDevice()) throw unusableSlot(path);
  const storage = await storageOf(opened, path);
  if (other !== undefined) {
    const found = await findSlot(other);
    if (found && isOverlapping(storage, await storageOf(found, other))) throw overlappingSlot(path, other);
    // The opened file may be the running slot, if the other one doesn't show that it isn't.
    if (!found) await directoryOfFile(other, false);
  }
  for (const device of await loopDevicesOn(storage)) {
    if (await isClaimed(device)) throw busySlot(path, `is in use by way of ${device}`);
  }
}

/** Whether a device is mounted, or part of another device. */
async function isClaimed(device: string): Promise<boolean> {
  try {
    await (await open(device, constants.O_RDONLY | constants.O_EXCL)).close();
    return false;
  } catch (error) {
    // ENXIO: it was detached just now. A device that can't be opened for another reason may be in use.
    return !isSystemError(error, 'ENXIO');
  }
}

/**
 * Checks the settings before anything is written. Refused are: a slot that is the other one or inside of it, paths that can't be slots, and
 * a data directory in a slot. A slot that doesn't exist yet is checked before it is written.
 */
export async function checkSlots(settings: {
  slots: Readonly<Record<SlotName, string>>;
  data: string;
}): Promise<void> {
  const slots = { A: resolve(settings.slots.A), B: resolve(settings.slots.B) };
  const isOnePath = (await whereTo(slots.A)) === (await whereTo(slots.B));
  const storage = { A: await storageAt(slots.A), B: await storageAt(slots.B) };
  if (isOnePath || isOverlapping(storage.A, storage.B))
    throw invalid(`--slot-a and --slot-b: ${slots.A} is ${slots.B}, or one lies in the other`);
  const layers = await layersOfDirectory(await nearest(resolve(settings.data)));
  for (const name of SLOT_NAMES) {
    if (layers.has(storage[name].id))
      throw invalid(`--data lies in slot ${name} (${slots[name]}): it has to be there whichever slot runs`);
  }
}

/** The storage of a file; if it doesn't exist yet, that of its future directory. */
async function storageAt(path: string): Promise<Storage> {
  const found = await findSlot(path);
  if (found) return storageOf(found, path);
  const layers = await layersOfDirectory(await nearest(dirname(path)));
  return { id: `nothing at ${path}`, layers, extents: [] };
}

/** A path without symbolic links, as far as it exists. */
async function whereTo(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch {
    // It doesn't exist yet.
    const above = dirname(path);
    return above === path ? path : join(await whereTo(above), basename(path));
  }
}

/** The directory itself, or the nearest one above it that exists. */
async function nearest(directory: string): Promise<string> {
  try {
    return await realpath(directory);
  } catch {
    const above = dirname(directory);
    return above === directory ? directory : nearest(above);
  }
}

function invalid(message: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_SETTING_INVALID', message, {
    hint: 'see "Slots" in docs/OPERATIONS.md',
  });
}
