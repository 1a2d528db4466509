import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { MachineFacts, Watchdog } from '../doctor/findings.ts';
import type { SlotName } from '../ports.ts';
import { bootedSlot, kernelWords, slotAt, slotIn } from './booted-slot.ts';

/** Where to find the kernel's files. Tests set directories of their own. */
export interface MachinePlaces {
  /** Default: /sys. */
  sys?: string;
  /** Default: /proc/cmdline. */
  commandLineFile?: string;
  /** Default: /. */
  root?: string;
}

/** Reads the facts with which `doctor --boot` compares the boot control's answers. */
export async function machineFacts(
  slots: Readonly<Record<SlotName, string>>,
  { sys = '/sys', commandLineFile, root = '/' }: MachinePlaces = {},
): Promise<MachineFacts> {
  const timeout = await textOf(join(sys, 'module/watchdog/parameters/open_timeout'));
  const words = await kernelWords(commandLineFile);
  return {
    said: slotIn(words),
    root: await slotAt(root, slots),
    booted: await bootedSlot(slots, { commandLineFile, root }).catch(unknown),
    watchdogs: await watchdogsIn(join(sys, 'class/watchdog')),
    words,
    openTimeoutS: timeout === undefined ? undefined : Number(timeout),
  };
}

function unknown(error: unknown): undefined {
  if (error instanceof SitecastError) return undefined;
  throw error;
}

async function watchdogsIn(directory: string): Promise<Watchdog[]> {
  const names = await readdir(directory).catch((error: unknown) => {
    if (isSystemError(error)) return [];
    throw error;
  });
  const identities = names.map(async name => (await textOf(join(directory, name, 'identity'))) ?? 'unknown');
  return (await Promise.all(identities)).map((identity, at) => ({ name: names[at] ?? '', identity }));
}

/** @returns undefined where the kernel has no such file */
async function textOf(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch (error) {
    if (isSystemError(error)) return undefined;
    throw error;
  }
}
