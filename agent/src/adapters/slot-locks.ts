import type { BigIntStats } from 'node:fs';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { Log } from '../ports.ts';
import { AbstractLock } from './abstract-lock.ts';
import type { FoundSlot } from './slot-checks.ts';
import { busySlot } from './slot-errors.ts';
import { storageId } from './storage-stack.ts';

/**
 * Keeps agents with different data directories away from each other's slots. A slot belongs to one agent from the time it is first seen
 * until the agent's process ends. The lock is on the storage, not on the path.
 */
export class SlotLocks {
  readonly #held = new Map<string, AbstractLock>();
  /** By the lock's name: the process that holds it without permission to write the slot, as last logged. */
  readonly #passedOver = new Map<string, number>();
  readonly #log: Log;

  constructor(log: Log) {
    this.#log = log;
  }

  /**
   * Takes the locks that aren't held yet: either all of them or none.
   * @throws SITECAST_SLOT_BUSY where another agent holds one
   */
  async take(slots: readonly FoundSlot[]): Promise<void> {
    const taken: string[] = [];
    try {
      for (const slot of slots) {
        const name = nameOf(slot.found);
        if (this.#held.has(name)) continue;
        const lock = await AbstractLock.take(name);
        if (lock) {
          this.#held.set(name, lock);
          this.#passedOver.delete(name);
          taken.push(name);
        } else await this.#judgeHolder(name, slot);
      }
    } catch (error) {
      for (const name of taken) await this.#release(name);
      throw error;
    }
  }

  async release(): Promise<void> {
    for (const name of this.#held.keys()) await this.#release(name);
  }

  async #judgeHolder(name: string, { path, found }: FoundSlot): Promise<void> {
    const holder = await holderOf(name);
    // Any process on this machine can take a name. The lock of a process that can't write the slot doesn't count.
    if (!holder || mayWrite(holder, found)) throw busySlot(path, heldBy(holder?.pid));
    if (this.#passedOver.get(name) === holder.pid) return;
    this.#passedOver.set(name, holder.pid);
    const who = `process ${holder.pid}, which may not write it`;
    this.#log('warn', `the lock of slot ${path} was taken by ${who}: meanwhile it keeps off no other agent`, {
      uid: holder.uid,
    });
  }

  async #release(name: string): Promise<void> {
    const lock = this.#held.get(name);
    this.#held.delete(name);
    await lock?.release();
  }
}

function heldBy(pid: number | undefined): string {
  return `is the slot of another sitecast-agent${pid === undefined ? '' : `, process ${pid}`}`;
}

const nameOf = (found: BigIntStats): string => `sitecast-slot-${storageId(found).replace(' ', '-')}`;

/** Another process according to /proc (proc_pid_status(5)). */
interface Holder {
  pid: number;
  /** The real user id, of the user who started it. A set-uid program has a different effective one. */
  uid: number;
  /** Its real group and all supplementary groups. */
  gids: readonly number[];
}

/**
 * Finds the process that listens on a name of the abstract namespace.
 * @returns undefined where it isn't visible: only root sees processes of other users
 */
async function holderOf(name: string): Promise<Holder | undefined> {
  const socket = await socketOf(name);
  if (socket === undefined) return undefined;
  for (const entry of await namesIn('/proc')) {
    if (/^\d+$/.test(entry) && (await hasOpen(entry, socket))) return readHolder(Number(entry));
  }
  return undefined;
}

/** Whether a process may write a file or device, by its owner and mode. */
function mayWrite({ uid, gids }: Holder, found: BigIntStats): boolean {
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
      // It has been closed meanwhile.
    }
  }
  return false;
}

async function readHolder(pid: number): Promise<Holder | undefined> {
  const status = await textOf(join('/proc', String(pid), 'status'));
  const numbers = (field: string) =>
    (new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? '').split(/\s+/).filter(Boolean).map(Number);
  // The real id, the effective id, and two more.
  const [[uid], [gid]] = [numbers('Uid'), numbers('Gid')];
  if (uid === undefined || gid === undefined) return undefined;
  return { pid, uid, gids: [gid, ...numbers('Groups')] };
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch {
    // Another user's process, or one that has ended.
    return [];
  }
}

async function textOf(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch {
    // The same.
    return '';
  }
}
