import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { type BoundedInstance, boundedInstance, compiledModule } from './web-assembly.ts';
import { wrongPiece } from './wrong-piece.ts';

/**
 * Bytes of memory that zstd has at most; this build begins with 16 MiB. That is enough for a block of 512 KiB at any level; one of 1 MiB takes up to
 * 24.3 MiB (docs/decisions/0113).
 */
const MAX_ZSTD_MEMORY_BYTES = 25 * 1024 * 1024;

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

let module: object | undefined;
let instance: BoundedInstance | undefined;

/** What its file was compiled to, if it was needed so far: for a thread that comes after this one. */
export function compiledZstd(): object | undefined {
  return module;
}

/** Takes what `compiledZstd` gave in another thread. */
export function takeCompiledZstd(compiled: object | undefined): void {
  module ??= compiled;
}

function current(): BoundedInstance {
  if (instance === undefined) {
    module ??= compiledModule(zstdFile());
    instance = boundedInstance(module, NAMES.memory, MAX_ZSTD_MEMORY_BYTES);
    instance.call(NAMES.initialize)();
  }
  return instance;
}

/** Its memory is let go; the next piece gets an instance of its own. */
export function releaseZstd(): void {
  instance = undefined;
}

/** One zstd frame as `ZSTD_compress` of libzstd 1.5.5 makes it. `level` is 1 to 22. As much of it is written as `into` holds. @returns the length of all of it */
export function encodeZstd(plain: Uint8Array, level: number, into: Uint8Array): number {
  return transform(plain, into, zstd => ({
    capacity: zstd.call(NAMES.compressBound)(plain.length),
    run: (to, capacity, from, length) => zstd.call(NAMES.compress)(to, capacity, from, length, level),
  }));
}

/** The content of whole zstd frames. Throws `SITECAST_PATCH_PIECE` where they are malformed or hold more than `into` does. @returns its length */
export function decodeZstd(frame: Uint8Array, into: Uint8Array): number {
  return transform(frame, into, zstd => ({
    capacity: into.length,
    run: (to, capacity, from, length) => zstd.call(NAMES.decompress)(to, capacity, from, length),
  }));
}

interface Step {
  /** Bytes that the output may take. */
  capacity: number;
  run: (to: number, capacity: number, from: number, length: number) => number;
}

function transform(input: Uint8Array, into: Uint8Array, stepOf: (zstd: BoundedInstance) => Step): number {
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
    into.set(zstd.memory().subarray(to, to + Math.min(length, into.length)));
    free(to);
    free(from);
    isUnharmed = true;
    return length;
  } finally {
    // What was allocated is left behind, so the next piece gets an instance of its own.
    if (!isUnharmed) releaseZstd();
  }
}
