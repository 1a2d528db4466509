import type { BigIntStats } from 'node:fs';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';

/** Another process, as /proc shows it (proc_pid_status(5)). */
export interface Holder {
  pid: number;
  /** The real user id, of the user who started it: a set-uid program keeps open what it was handed. */
  uid: number;
  /** Its real group and all supplementary ones. */
  gids: readonly number[];
}

/**
 * Finds the process that listens on a name of the abstract namespace.
 * @returns undefined where it can't be seen: only root sees those of other users
 */
export async function holderOf(name: string): Promise<Holder | undefined> {
  const socket = await socketOf(name);
  if (socket === undefined) return undefined;
  for (const entry of await namesIn('/proc')) {
    if (/^\d+$/.test(entry) && (await hasOpen(entry, socket))) return readHolder(Number(entry));
  }
  return undefined;
}

/** Whether a process may write a file or device, by its owner and mode. */
export function mayWrite({ uid, gids }: Holder, found: BigIntStats): boolean {
  const mode = Number(found.mode);
  if (uid === 0 || uid === process.getuid?.()) return true;
  if (uid === Number(found.uid) && (mode & 0o200) !== 0) return true;
  return (gids.includes(Number(found.gid)) && (mode & 0o020) !== 0) || (mode & 0o002) !== 0;
}

/** The name of the listening socket, as `/proc/PID/fd` shows it. */
async function socketOf(name: string): Promise<string | undefined> {
  for (const line of (await textOf('/proc/net/unix')).split('\n')) {
    const [, , , , , , inode, ...path] = line.trim().split(/\s+/);
    // Zero bytes at its end are shown as @ as well.
    if (inode !== undefined && path.join(' ').replace(/@+$/, '') === `@${name}`) return `socket:[${inode}]`;
  }
  return undefined;
}

async function hasOpen(pid: string, socket: string): Promise<boolean> {
  const directory = join('/proc', pid, 'fd');
  for (const name of await namesIn(directory)) {
    try {
      if ((await readlink(join(directory, name))) === socket) return true;
    } catch {
      // It was closed meanwhile.
    }
  }
  return false;
}

async function readHolder(pid: number): Promise<Holder | undefined> {
  const status = await textOf(join('/proc', String(pid), 'status'));
  const numbers = (field: string) =>
    (new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? '').split(/\s+/).filter(Boolean).map(Number);
  // The real id, the effective one, and two more.
  const [[uid], [gid]] = [numbers('Uid'), numbers('Gid')];
  if (uid === undefined || gid === undefined) return undefined;
  return { pid, uid, gids: [gid, ...numbers('Groups')] };
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch {
    // Another user's process, or one that is gone.
    return [];
  }
}

async function textOf(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch {
    // As above.
    return '';
  }
}
