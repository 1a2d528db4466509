import type { BigIntStats } from 'node:fs';
import type { Log } from '../ports.ts';
import { AbstractLock } from './abstract-lock.ts';
import { holderOf, mayWrite } from './lock-holder.ts';
import type { FoundSlot } from './slot-checks.ts';
import { busySlot } from './slot-errors.ts';
import { storageId } from './storage-stack.ts';

/**
 * Keeps agents with different data directories off each other's slots. A slot belongs to one agent from when it was first seen until that
 * agent's process ends. The lock is on the storage, not on the path.
 */
export class SlotLocks {
  readonly #held = new Map<string, AbstractLock>();
  /** By the lock's name: the process that holds it, may not write the slot, and was logged. */
  readonly #passedOver = new Map<string, number>();
  readonly #log: Log;

  constructor(log: Log) {
    this.#log = log;
  }

  /**
   * Takes the locks that aren't held yet: all of them, or none.
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
