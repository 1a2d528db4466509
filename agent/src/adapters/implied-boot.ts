import { access } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { BootSettings } from '../boot-settings.ts';
import type { Log, SlotName } from '../ports.ts';
import { isWithin } from './mounts.ts';
import { findSlot } from './slot-checks.ts';

interface ImpliedBootSettings {
  boot: BootSettings;
  slots: Readonly<Record<SlotName, string>>;
}

/**
 * Whether no `--boot` was given, and the slots are block devices, one of which a machine probably boots from: boot control `file` boots
 * nothing.
 * @returns the problem; undefined where there is none
 */
export async function impliedBootProblem({
  boot,
  slots,
}: ImpliedBootSettings): Promise<SitecastError | undefined> {
  if (boot.kind !== 'file' || boot.isImplied !== true) return undefined;
  const paths = [resolve(slots.A), resolve(slots.B)];
  const [found] = (await Promise.all(paths.map(deviceText))).filter(text => text !== undefined);
  if (found === undefined) return undefined;
  return new SitecastError(
    'badInput',
    'SITECAST_BOOT_KIND_MISSING',
    `--boot is needed: ${found}, and without --boot no machine is booted: an update counts as good without having run`,
    {
      hint: 'give --boot grub, uboot or command (docs/BOOT.md); or --boot file, where no machine boots from the slots',
    },
  );
}

/** @returns undefined where it is none. A device that isn't there yet counts by its name */
async function deviceText(path: string): Promise<string | undefined> {
  const found = await findSlot(path);
  if (found) return found.isBlockDevice() ? `${path} is a block device` : undefined;
  return isWithin(path, '/dev') ? `${path} is the name of a device` : undefined;
}

/**
 * Keeps an agent from starting like that. One that has run like that before only warns: with an error it would end on devices in the field.
 * @throws SITECAST_BOOT_KIND_MISSING
 */
export async function refuseImpliedBoot(
  settings: ImpliedBootSettings & { data: string },
  log: Log,
): Promise<void> {
  const problem = await impliedBootProblem(settings);
  if (!problem) return;
  try {
    await access(join(settings.data, 'boot.json'));
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) throw problem;
    throw error;
  }
  const { code, message, hint } = problem;
  log('error', message, { code, hint });
}
