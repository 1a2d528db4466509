import { MAX_BATCH_BYTES } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { ByteBudget, type FairPool, type Lease } from '@sitecast/shared/bounded';

/** All bodies of operators' requests that are in memory at one time. */
export const MAX_BODY_MEMORY_BYTES = 64 * 1024 * 1024;
/** All bodies of devices' and gateways' requests that are in memory at one time. */
export const MAX_MEMBERS_BODY_MEMORY_BYTES = 64 * 1024 * 1024;
/** All bodies in memory of senders that aren't members. */
export const MAX_STRANGERS_BODY_MEMORY_BYTES = 4 * 1024 * 1024;
/** All file contents that wait in memory for slow readers; beyond it, files are streamed in small pieces. */
export const MAX_RESPONSE_MEMORY_BYTES = 64 * 1024 * 1024;

/** Where bodies are held. */
export interface BodyMemory {
  /**
   * @returns the function that gives the memory back
   * @throws SITECAST_BUSY (unreachable)
   */
  lease(lengthBytes: number): () => void;
}

/** The part of one sender's request in memory that is shared fairly. */
export class SenderMemory implements BodyMemory {
  readonly #memory: FairPool;
  readonly #sender: string;
  readonly #end: () => void;
  readonly #leases: Lease[] = [];

  /** @param end ends the request, where the memory is needed for others that hold less */
  constructor(memory: FairPool, sender: string, end: () => void) {
    this.#memory = memory;
    this.#sender = sender;
    this.#end = end;
  }

  lease(lengthBytes: number): () => void {
    const lease = this.#memory.lease(this.#sender, lengthBytes, this.#end);
    if (!lease) throw busy();
    this.#leases.push(lease);
    return () => lease.release();
  }

  /** The body is complete: it stays until the request has been answered. */
  keep(): void {
    for (const lease of this.#leases) lease.keep();
  }
}

/** Memory that many requests share. */
export class MemoryBudget extends ByteBudget implements BodyMemory {
  lease(lengthBytes: number): () => void {
    const release = this.tryLease(lengthBytes);
    if (release) return release;
    throw busy();
  }
}

function busy(): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_BUSY', 'the origin is receiving as much as it can hold', {
    hint: 'Try again in a moment.',
  });
}

/** An upload shorter than this gets memory of its own, which isn't kept for later use. */
const MIN_POOLED_BYTES = 1024 * 1024;
const MAX_POOLED = 4;

/** Memory for chunk uploads, used again and again: allocating fresh pages costs more than the work on the bytes. */
export class BatchMemory {
  readonly #budget: MemoryBudget;
  readonly #pool: ArrayBuffer[] = [];

  constructor(budget: MemoryBudget) {
    this.#budget = budget;
  }

  /**
   * @param lengthBytes as announced; undefined where the sender doesn't say
   * @returns at least so much memory, and the function that gives it back. That function gets the memory itself, which may have moved
   * between threads, or undefined where it was lost
   * @throws SITECAST_BUSY
   */
  lease(lengthBytes: number | undefined): {
    memory: ArrayBuffer;
    release: (memory: ArrayBuffer | undefined) => void;
  } {
    const isSmall = lengthBytes !== undefined && lengthBytes < MIN_POOLED_BYTES;
    const capacityBytes = isSmall ? lengthBytes : MAX_BATCH_BYTES;
    const giveBack = this.#budget.lease(capacityBytes);
    const memory = isSmall
      ? new ArrayBuffer(capacityBytes)
      : (this.#pool.pop() ?? new ArrayBuffer(capacityBytes));
    return {
      memory,
      release: returned => {
        giveBack();
        const isPoolable = returned?.byteLength === MAX_BATCH_BYTES && this.#pool.length < MAX_POOLED;
        if (returned && isPoolable) this.#pool.push(returned);
      },
    };
  }
}
