import { closeSync, openSync, readdirSync, readlinkSync } from 'node:fs';

/**
 * Puts another file in the place of the one to which LevelDB writes its log, within this process: the kernel's answer to a write is then
 * real (`/dev/full`: no space left), without a full disk.
 * @param path the database's directory
 * @returns the log's path
 */
export function replaceLog(path: string, by: string, flags = 'r+'): string {
  for (const name of readdirSync('/proc/self/fd')) {
    const log = targetOf(name);
    if (log === undefined || !log.startsWith(`${path}/`) || !log.endsWith('.log')) continue;
    replaceDescriptor(Number(name), by, flags);
    return log;
  }
  throw new Error(`no log of ${path} is open`);
}

function replaceDescriptor(wanted: number, by: string, flags: string): void {
  closeSync(wanted);
  const others: number[] = [];
  // The kernel gives the lowest number that is free.
  for (let given = openSync(by, flags); given !== wanted; given = openSync(by, flags)) others.push(given);
  for (const other of others) closeSync(other);
}

function targetOf(name: string): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${name}`);
  } catch {
    // The descriptor by which the folder was read.
    return undefined;
  }
}
