import { BLOCKS_BYTES } from './codecs/index.ts';
import { MAX_CONTROL_BYTES, MAX_OPENED_TARGET_BYTES, MAX_TRIPLES } from './limits.ts';
import { TRIPLE_NUMBERS } from './patch.ts';
import { HEAP, type ViewMemory } from './views.ts';

/** Garbage is collected as soon as more than this has gathered. */
const MAX_GARBAGE_BYTES = 3 * 1024 * 1024;

/** Bytes beside the target into which streams are decoded: first the control columns, then the shorter one of diff and extra. */
export const BESIDE_BYTES = Math.max(MAX_CONTROL_BYTES, MAX_OPENED_TARGET_BYTES / 2);
const TRIPLES_BYTES = MAX_TRIPLES * TRIPLE_NUMBERS * Int32Array.BYTES_PER_ELEMENT;

/** Where the working memory of a patch comes from (besides base, patch and target). */
export interface ApplyMemory extends ViewMemory {
  /** Bytes for a stream. Each call gives the same ones. */
  bytes(length: number): Uint8Array;
  /** Numbers for the control triples. Each call gives the same ones. */
  triples(length: number): Int32Array;
  /** For the decoder of bzip2; undefined: the decoder allocates its own. */
  readonly blocks: Uint32Array | undefined;
  /** Called when the decoded streams of a patch aren't needed any more. */
  forgetStreams(): void;
  /** Collects garbage. */
  release(): void;
}

/** Plain allocation, for a caller who applies one patch. */
export const HEAP_MEMORY: ApplyMemory = {
  ...HEAP,
  bytes: length => new Uint8Array(length),
  triples: length => new Int32Array(length),
  blocks: undefined,
  forgetStreams: () => {},
};

/**
 * Memory for one patch after the other, in a thread. The memory for streams is as long as streams can be, and is used for each patch: the
 * system provides only the pages that are touched. Opened and closed pieces get fresh memory in each step, which is released after the
 * step: so at any time only half of what a patch needs is allocated.
 */
export class ReusedMemory implements ApplyMemory {
  readonly #take: (lengthBytes: number) => Uint8Array;
  readonly #collect: () => void;
  #beside: Uint8Array | undefined;
  #triples: Int32Array | undefined;
  #blocks: Uint32Array | undefined;
  #garbageBytes = 0;

  /** @param take returns zeroed memory @param collect collects garbage */
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
