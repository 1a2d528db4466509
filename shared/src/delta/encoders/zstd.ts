import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { type BoundedInstance, boundedModule } from './web-assembly.ts';
import { wrongPiece } from './wrong-piece.ts';

/** Bytes of memory that zstd has at most: level 22 takes 22 MiB for a block of 1 MiB, and as much again for what goes in and out. */
const MAX_ZSTD_MEMORY_BYTES = 32 * 1024 * 1024;

/** Names that the linker gave to libzstd's functions in this build; its SHA-256 is pinned by a test. */
const NAMES = {
  memory: 'd',
  initialize: 'e',
  isError: 'f',
  compressBound: 'g',
  compress: 'k',
  decompress: 'p',
  malloc: 'q',
  free: 'r',
} as const;

/** The file that runs: libzstd 1.5.5, compiled for `@bokuweb/zstd-wasm` 0.0.20. Its JavaScript isn't loaded: it would let the memory grow to 2 GiB. */
export function zstdFile(): string {
  return join(dirname(createRequire(import.meta.url).resolve('zstd-wasm-0.0.20')), 'wasm/zstd.wasm');
}

let instantiate: (() => BoundedInstance) | undefined;
let instance: BoundedInstance | undefined;

function current(): BoundedInstance {
  instantiate ??= boundedModule(zstdFile(), NAMES.memory, MAX_ZSTD_MEMORY_BYTES);
  if (instance === undefined) {
    instance = instantiate();
    instance.call(NAMES.initialize)();
  }
  return instance;
}

/** One zstd frame as `ZSTD_compress` of libzstd 1.5.5 makes it. `level` is 1 to 22. */
export function encodeZstd(plain: Uint8Array, level: number): Uint8Array {
  return transform(plain, zstd => ({
    capacity: zstd.call(NAMES.compressBound)(plain.length),
    run: (to, capacity, from, length) => zstd.call(NAMES.compress)(to, capacity, from, length, level),
  }));
}

/** The content of whole zstd frames. Throws `SITECAST_PATCH_PIECE` where they are malformed or hold more than `maxBytes`. */
export function decodeZstd(frame: Uint8Array, maxBytes: number): Uint8Array {
  return transform(frame, zstd => ({
    capacity: maxBytes,
    run: (to, capacity, from, length) => zstd.call(NAMES.decompress)(to, capacity, from, length),
  }));
}

interface Step {
  /** Bytes that the output may take. */
  capacity: number;
  run: (to: number, capacity: number, from: number, length: number) => number;
}

function transform(input: Uint8Array, stepOf: (zstd: BoundedInstance) => Step): Uint8Array {
  const zstd = current();
  let isUnharmed = false;
  try {
    const { capacity, run } = stepOf(zstd);
    const malloc = zstd.call(NAMES.malloc);
    const free = zstd.call(NAMES.free);
    const from = malloc(Math.max(1, input.length));
    const to = malloc(Math.max(1, capacity));
    if (from === 0 || to === 0) wrongPiece('it needs more memory than there is');
    zstd.memory().set(input, from);
    const length = run(to, capacity, from, input.length);
    if (zstd.call(NAMES.isError)(length) !== 0) wrongPiece('zstd refuses it');
    const output = zstd.memory().slice(to, to + length);
    free(to);
    free(from);
    isUnharmed = true;
    return output;
  } finally {
    // What was allocated is left behind, so the next piece gets an instance of its own.
    if (!isUnharmed) instance = undefined;
  }
}
