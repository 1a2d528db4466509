import { readFile, stat } from 'node:fs/promises';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { SLOT_NAMES, type SlotName } from '../ports.ts';

const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id';
const COMMAND_LINE_FILE = '/proc/cmdline';

/** An id that is new with each boot. */
export async function kernelBootId(): Promise<string> {
  return (await readFile(BOOT_ID_FILE, 'utf8')).trim();
}

/** The words of the kernel's command line. */
export async function kernelWords(file = COMMAND_LINE_FILE): Promise<string[]> {
  return (await readFile(file, 'utf8')).split(/\s+/).filter(word => word !== '');
}

/**
 * The running slot: according to `sitecast.slot=A` on the kernel's command line (or `rauc.slot=A`, which boot scripts for RAUC write),
 * otherwise the slot whose device has the root file system.
 * @throws SITECAST_BOOT_SLOT_UNKNOWN
 */
export async function bootedSlot(
  slots: Readonly<Record<SlotName, string>>,
  { commandLineFile, root = '/' }: { commandLineFile?: string | undefined; root?: string } = {},
): Promise<SlotName> {
  const found = slotIn(await kernelWords(commandLineFile)) ?? (await slotAt(root, slots));
  if (found !== undefined) return found;
  throw new SitecastError(
    'failed',
    'SITECAST_BOOT_SLOT_UNKNOWN',
    "nothing says which slot runs: neither the kernel's command line nor the device of the root file system",
    { hint: 'let the boot loader start the kernel with sitecast.slot=A or sitecast.slot=B' },
  );
}

/** The slot that the kernel's command line names. */
export function slotIn(words: readonly string[]): SlotName | undefined {
  for (const word of words) {
    const name = /^(?:sitecast|rauc)\.slot=([AB])$/.exec(word)?.[1];
    if (name === 'A' || name === 'B') return name;
  }
  return undefined;
}

/** The slot whose device has the file system of that directory. */
export async function slotAt(
  root: string,
  slots: Readonly<Record<SlotName, string>>,
): Promise<SlotName | undefined> {
  const { dev } = await stat(root);
  for (const name of SLOT_NAMES) if ((await deviceAt(slots[name])) === dev) return name;
  return undefined;
}

/** @returns undefined where there is no block device */
async function deviceAt(path: string): Promise<number | undefined> {
  try {
    const status = await stat(path);
    return status.isBlockDevice() ? status.rdev : undefined;
  } catch (error) {
    if (isSystemError(error)) return undefined;
    throw error;
  }
}
