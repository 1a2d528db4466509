import type { BigIntStats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { type Mount, readMounts } from './mounts.ts';
import { deviceNumber, holdersOf, loopDevicesOn, storageOf } from './storage-stack.ts';

/**
 * Finds what uses a slot, as far as this process can see: a mount, or a device that includes it, also through a loop device.
 * @returns words such as `mounted at Y`, to follow `the slot X is`; undefined where nothing is found
 */
export async function useOf(path: string, found: BigIntStats): Promise<string | undefined> {
  const mounts = await readMounts();
  const own = found.isBlockDevice() ? await useOfDevice(found, mounts) : undefined;
  if (own !== undefined) return own;
  for (const loop of await loopDevicesOn(await storageOf(found, path))) {
    const device = await statOf(loop);
    const use = device && (await useOfDevice(device, mounts));
    if (use !== undefined) return `${use} by way of ${loop}`;
  }
  return undefined;
}

async function useOfDevice(device: BigIntStats, mounts: readonly Mount[]): Promise<string | undefined> {
  const number = deviceNumber(device.rdev);
  for (const { device: mounted, source, mountPoint } of mounts) {
    // Some file systems, such as btrfs, have a number of their own. Their source names the device.
    const isIt = mounted === number || (source.startsWith('/') && (await isDevice(source, device)));
    if (isIt) return `is mounted at ${mountPoint}`;
  }
  const [holder] = await holdersOf(number);
  return holder === undefined ? undefined : `is part of /dev/${holder}`;
}

async function isDevice(path: string, { rdev }: BigIntStats): Promise<boolean> {
  const found = await statOf(path);
  return found?.isBlockDevice() === true && found.rdev === rdev;
}

async function statOf(path: string): Promise<BigIntStats | undefined> {
  try {
    return await stat(path, { bigint: true });
  } catch {
    // It is gone, or this process can't see it.
    return undefined;
  }
}
