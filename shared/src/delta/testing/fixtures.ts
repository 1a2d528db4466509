import { spawnSync } from 'node:child_process';
import { noise } from '../../content/fixtures.ts';
import { SitecastError } from '../../errors.ts';
import { ByteWriter } from '../bytes.ts';
import { deflateParameter, type PieceCodec, pieceCodec } from '../encoders/index.ts';
import { STREAM_CODECS } from '../codecs/stream-codec.ts';
import { encodePatch, type PatchStreams, type StreamEncoder } from '../patch.ts';
import { type BaseLayer, closeTarget, writeViews } from '../views.ts';

/** `done`, or the code of the error. An error without a code is thrown on. */
export function codeOf(run: () => unknown): string {
  try {
    run();
    return 'done';
  } catch (error) {
    return error instanceof SitecastError ? error.code : `not a SitecastError: ${String(error)}`;
  }
}

/** A `.bz2` file. */
export function bzip2(plain: Uint8Array, level = 9): Buffer {
  return outputOf('bzip2', [`-${level}`, '-c'], plain);
}

/** A byte of properties, and the raw LZMA stream with its end marker. */
export function lzma(
  plain: Uint8Array,
  [lc, lp, pb]: readonly [lc: number, lp: number, pb: number] = [3, 0, 0],
): Buffer {
  const filter = `--lzma1=preset=6,lc=${lc},lp=${lp},pb=${pb},dict=${Math.max(4096, plain.length)}`;
  const stream = outputOf('xz', ['--format=raw', filter, '-c'], plain);
  return Buffer.concat([Buffer.of((pb * 5 + lp) * 9 + lc), stream]);
}

/** The system's programs as a maker's encoders. */
export const SYSTEM_ENCODERS: readonly StreamEncoder[] = [
  { codec: 'bzip2', encode: plain => bzip2(plain) },
  { codec: 'lzma', encode: plain => lzma(plain) },
];

function outputOf(program: string, args: string[], input: Uint8Array): Buffer {
  const { stdout, status, stderr } = spawnSync(program, args, { input, maxBuffer: 2 ** 26 });
  if (status !== 0) throw new Error(String(stderr));
  return stdout;
}

/**
 * A base of `baseBytes`, and streams that make `targetBytes` of it: pieces of the base in another order, with every 40th byte changed and
 * new ones between them.
 */
export function changedPieces(
  baseBytes: number,
  targetBytes: number,
): { base: Buffer; streams: PatchStreams; target: Buffer } {
  const base = noise(baseBytes, 'base');
  const pieces = 16;
  const insert = Math.floor(targetBytes / pieces / 5);
  const add = Math.floor(targetBytes / pieces) - insert;
  const diff = Buffer.from(new Uint8Array(add * pieces).map((_, at) => (at % 40 === 0 ? at % 7 : 0)));
  const extra = Buffer.from(noise(insert * pieces, 'extra').map(byte => byte & 0x5f));
  const target: Uint8Array[] = [];
  const control: number[] = [];
  let from = 0;
  for (let piece = 0; piece < pieces; piece += 1) {
    const next = ((piece + 1) * 7_919 * 13) % (baseBytes - add);
    target.push(base.subarray(from, from + add).map((byte, at) => byte + (diff[piece * add + at] ?? 0)));
    target.push(extra.subarray(piece * insert, (piece + 1) * insert));
    control.push(add, insert, next - from - add);
    from = next;
  }
  return { base, streams: { control: Int32Array.from(control), diff, extra }, target: Buffer.concat(target) };
}

/** Writes bits, the first one highest, as bzip2 has them. */
class BitWriter {
  readonly #bytes: Buffer;
  #bits = 0;

  constructor(maxBytes: number) {
    this.#bytes = Buffer.alloc(maxBytes);
  }

  write(count: number, value: number): void {
    for (let bit = count - 1; bit >= 0; bit -= 1, this.#bits += 1)
      if (((value >>> bit) & 1) === 1)
        this.#bytes[this.#bits >> 3] = (this.#bytes[this.#bits >> 3] ?? 0) | (0x80 >> (this.#bits & 7));
  }

  finish(): Buffer {
    return this.#bytes.subarray(0, Math.ceil(this.#bits / 8));
  }
}

/** A bzip2 stream, in the form of a patch, whose blocks give one byte each: the most work for the fewest bytes. */
export function manyBlocks(blocks: number): Buffer {
  const writer = new BitWriter(blocks * 32 + 1);
  writer.write(8, 0x39);
  for (let block = 0; block < blocks; block += 1) {
    for (const [count, value] of [
      [24, 0x314159],
      [24, 0x265359],
      [32, 0],
      // Not randomized, begins at 0; the byte 0 alone occurs.
      [1, 0],
      [24, 0],
      [16, 0x8000],
      [16, 0x8000],
      // Two codes, one group, which uses the first code.
      [3, 2],
      [15, 1],
      [1, 0],
    ] as const)
      writer.write(count, value);
    // Both codes: lengths 2, 2, 2. Then the symbols: one byte 0, the end.
    for (let code = 0; code < 2; code += 1) writer.write(8, 0b00010_000);
    writer.write(2, 0);
    writer.write(2, 2);
  }
  return writer.finish();
}

/** A patch with only a diff stream, made of any bytes, also of those that no encoder would write. */
export function patchWithDiff(coded: Uint8Array, targetLength: number): Buffer {
  const writer = new ByteWriter();
  for (const byte of [0xdc, 1, STREAM_CODECS.indexOf('bzip2') << 2]) writer.byte(byte);
  const control = new ByteWriter();
  for (const value of [targetLength, 0, 0]) control.uint(value);
  for (const value of [targetLength, 1, control.lengthBytes, control.lengthBytes, coded.length])
    writer.uint(value);
  writer.add(control.finish());
  writer.add(coded);
  return writer.finish();
}

const MIB = 2 ** 20;

/** A patch with its base and target. */
export interface MadePatch {
  base: Buffer;
  patch: Buffer;
  target: Uint8Array;
}

/**
 * For each codec: parameters of the base's pieces and of the target's. The latter are the longest blocks at the level that takes most
 * memory.
 */
const PARAMETERS = new Map([
  ['zstd-1.5.5-wasm', { base: 1, target: 16 }],
  ['pako-2.2.0', { base: deflateParameter(1, 15, 0), target: deflateParameter(9, 15, 0) }],
  ['liblzma-5.4-ported', { base: 10, target: 10 }],
]);

/**
 * The patch that needs the most memory: a base that opens to 10 MiB, a target of nearly that length, and the longest blocks at the level
 * that takes the most memory.
 */
export async function largestOpened(name = 'zstd-1.5.5-wasm'): Promise<MadePatch> {
  const plain = noise(10 * MIB, 'opened').map(byte => byte & 0x3f);
  return await openedBy(name, plain, plain);
}

/** The same with two layers: an LZ4 block of 8 MiB inside blocks of zstd. */
export async function largestNested(): Promise<MadePatch> {
  // LZ4 doesn't code single bytes, but it finds that the second half of each 64 bytes repeats.
  const plain = noise(8 * MIB, 'nested');
  for (let at = 0; at < plain.length; at += 64) plain.copyWithin(at + 32, at, at + 32);
  const lz4 = pieceCodec('lz4hc-1.9.4');
  const block = encodedPiece(lz4, plain, 9);
  const piece = { rawBefore: 0, compressedLength: block.length, plainLength: plain.length };
  return await openedBy('zstd-1.5.5-wasm', block, plain, [{ codec: lz4.name, pieces: [piece] }]);
}

/** @param outer what the base's pieces hold; @param plain what the inner layers make of it */
async function openedBy(
  name: string,
  outer: Uint8Array,
  plain: Uint8Array,
  inner: readonly BaseLayer[] = [],
): Promise<MadePatch> {
  const codec = pieceCodec(name);
  const { base: baseParameter, target: parameter } = PARAMETERS.get(name) ?? { base: 0, target: 0 };
  const blocks = Array.from({ length: Math.ceil(outer.length / MIB) }, (_, at) =>
    outer.subarray(at * MIB, (at + 1) * MIB),
  );
  const coded = blocks.map(block => encodedPiece(codec, block, baseParameter));
  const add = 6 * MIB;
  const changed = new Uint8Array(add).map((_, at) => (at % 50 === 0 ? at % 5 : 0));
  const extra = noise(3.4 * MIB, 'extra');
  const made = Buffer.concat([plain.subarray(0, add).map((byte, at) => byte + (changed[at] ?? 0)), extra]);
  const pieces = [
    { rawBefore: 0, plainLength: MIB },
    { rawBefore: MIB, plainLength: MIB },
  ];
  const targetLayer = { codec: codec.name, parameter, headBytes: 0, pieces };
  const basePieces = coded.map(({ length }, at) => ({
    rawBefore: 0,
    compressedLength: length,
    plainLength: blocks[at]?.length ?? 0,
  }));
  const baseLayers = [{ codec: codec.name, pieces: basePieces }, ...inner];
  const views = writeViews({ base: baseLayers, target: [targetLayer] });
  const streams = { control: Int32Array.of(add, extra.length, 0), diff: changed, extra };
  return {
    base: Buffer.concat(coded),
    patch: await encodePatch(streams, SYSTEM_ENCODERS.slice(0, 1), views),
    target: closeTarget(made, [targetLayer], 4 * MIB),
  };
}

/** One compressed piece. */
export function encodedPiece(codec: PieceCodec, plain: Uint8Array, parameter: number): Uint8Array {
  const into = new Uint8Array(Math.ceil(plain.length * 1.01) + 1024);
  return into.subarray(0, codec.encode(plain, parameter, into));
}
