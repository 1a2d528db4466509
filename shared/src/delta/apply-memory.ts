import { BLOCKS_BYTES } from './codecs/index.ts';
import { MAX_CONTROL_BYTES, MAX_OPENED_TARGET_BYTES, MAX_TRIPLES } from './limits.ts';
import { TRIPLE_NUMBERS } from './patch.ts';
import { HEAP, type ViewMemory } from './views.ts';

/** So much that isn't used any more may gather. */
const MAX_GARBAGE_BYTES = 3 * 1024 * 1024;

/** What streams are decoded into beside the target: the control columns, and then diff or extra, whichever is shorter. */
export const BESIDE_BYTES = Math.max(MAX_CONTROL_BYTES, MAX_OPENED_TARGET_BYTES / 2);
const TRIPLES_BYTES = MAX_TRIPLES * TRIPLE_NUMBERS * Int32Array.BYTES_PER_ELEMENT;

/** Where the bytes lie that applying a patch needs besides base, patch and target. */
export interface ApplyMemory extends ViewMemory {
  /** The same bytes at each call. */
  bytes(length: number): Uint8Array;
  /** The same numbers at each call. */
  triples(length: number): Int32Array;
  /** For the decoder of bzip2; undefined where it takes what it needs. */
  readonly blocks: Uint32Array | undefined;
  /** What the streams of a patch needed isn't used any more. */
  forgetStreams(): void;
  /** Frees what nothing refers to any more. */
  release(): void;
}

/** V8's, for a caller who applies one patch. */
export const HEAP_MEMORY: ApplyMemory = {
  ...HEAP,
  bytes: length => new Uint8Array(length),
  triples: length => new Int32Array(length),
  blocks: undefined,
  forgetStreams: () => {},
};

/**
 * Memory for one patch after the other, in a thread. What streams need is as long as it can be at once, and used again: the system gives
 * only as much as is touched. What is opened and closed is fresh for each step, and given back after it, since what is live at one time
 * is half of all that a patch needs.
 */
export class ReusedMemory implements ApplyMemory {
  readonly #take: (lengthBytes: number) => Uint8Array;
  readonly #collect: () => void;
  #beside: Uint8Array | undefined;
  #triples: Int32Array | undefined;
  #blocks: Uint32Array | undefined;
  #garbageBytes = 0;

  /** @param take gives zeroed memory. @param collect frees what nothing refers to */
  constructor(take: (lengthBytes: number) => Uint8Array, collect: () => void) {
    this.#take = take;
    this.#collect = collect;
  }

  fresh(lengthBytes: number): Uint8Array {
    return this.#take(lengthBytes);
  }

  discard(lengthBytes: number): void {
    this.#garbageBytes += lengthBytes;
    if (this.#garbageBytes >= MAX_GARBAGE_BYTES) this.release();
  }

  release(): void {
    this.#garbageBytes = 0;
    this.#collect();
  }

  bytes(length: number): Uint8Array {
    this.#beside ??= this.#take(BESIDE_BYTES);
    return this.#beside.subarray(0, length);
  }

  triples(length: number): Int32Array {
    this.#triples ??= new Int32Array(this.#take(TRIPLES_BYTES).buffer);
    return this.#triples.subarray(0, length);
  }

  get blocks(): Uint32Array {
    this.#blocks ??= new Uint32Array(this.#take(BLOCKS_BYTES).buffer);
    return this.#blocks;
  }

  forgetStreams(): void {
    this.#beside = undefined;
    this.#triples = undefined;
    this.#blocks = undefined;
  }
}
