import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { type BoundedInstance, boundedInstance, compiledModule } from './web-assembly.ts';
import { wrongPiece } from './wrong-piece.ts';

/**
 * The bound on zstd's memory; this build begins with 16 MiB. It is enough for a block of 512 KiB at any level; one of 1 MiB takes up to
 * 24.3 MiB (docs/decisions/0113).
 */
const MAX_ZSTD_MEMORY_BYTES = 25 * 1024 * 1024;

/** Names that the linker gave to libzstd's functions in this build. A test pins the file's SHA-256. */
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

/**
 * The file that is run: libzstd 1.5.5, compiled for `@bokuweb/zstd-wasm` 0.0.20. The package's JavaScript isn't loaded, as it would let
 * the memory grow to 2 GiB.
 */
export function zstdFile(): string {
  return join(dirname(createRequire(import.meta.url).resolve('zstd-wasm-0.0.20')), 'wasm/zstd.wasm');
}

let module: object | undefined;
let instance: BoundedInstance | undefined;

/** The compiled module, if it was needed so far: for the thread that follows this one. */
export function compiledZstd(): object | undefined {
  return module;
}

/** Takes the module that another thread has compiled. */
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

/** Releases zstd's memory. The next piece gets a new instance. */
export function releaseZstd(): void {
  instance = undefined;
}

/**
 * Compresses to one zstd frame, as `ZSTD_compress` of libzstd 1.5.5 does. `level` is 1 to 22. Bytes that don't fit `into` are dropped.
 * @returns the length of the whole frame
 */
export function encodeZstd(plain: Uint8Array, level: number, into: Uint8Array): number {
  return transform(plain, into, zstd => ({
    capacity: zstd.call(NAMES.compressBound)(plain.length),
    run: (to, capacity, from, length) => zstd.call(NAMES.compress)(to, capacity, from, length, level),
  }));
}

/**
 * Decompresses whole zstd frames. Throws `SITECAST_PATCH_PIECE` where they are malformed or hold more than `into` does. @returns the
 * length of the content
 */
export function decodeZstd(frame: Uint8Array, into: Uint8Array): number {
  return transform(frame, into, zstd => ({
    capacity: into.length,
    run: (to, capacity, from, length) => zstd.call(NAMES.decompress)(to, capacity, from, length),
  }));
}

interface Step {
  /** How many bytes the output may have. */
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
    // The failed call didn't free its memory, so the next piece gets a new instance.
    if (!isUnharmed) releaseZstd();
  }
}
