import { execFileSync } from 'node:child_process';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { SitecastError } from '../errors.ts';
import { Chunk } from './chunk.ts';
import { chunkIdOf } from './chunk-id.ts';
import { needsProgram, noise } from './fixtures.ts';
import { MAX_CHUNK_BYTES, MAX_FRAME_BLOCKS, MAX_FRAME_BYTES } from './limits.ts';
import {
  compressFrame,
  compressInto,
  decompressAtMost,
  decompressExactly,
  decompressInto,
  MAX_ZSTD_LEVEL,
  maxFrameBytes,
  MIN_ZSTD_LEVEL,
  verifyFrame,
} from './zstd.ts';

const TEXT = Buffer.from('a site behind a thin link, '.repeat(4000));
const invalidFrame = expect.objectContaining({ code: 'SITECAST_FRAME_INVALID' });
const mismatch = expect.objectContaining({ code: 'SITECAST_CHUNK_MISMATCH' });

const MAGIC = Buffer.of(0x28, 0xb5, 0x2f, 0xfd);
/** Window descriptor: 2^(10 + exponent) bytes. */
const window = (exponent: number) => Buffer.of(exponent << 3);
/** A block of one repeated byte: 4 bytes that expand to up to 128 KiB. */
const rle = (lengthBytes: number, isLast = false) =>
  Buffer.of(...littleEndian(lengthBytes * 8 + 2 + (isLast ? 1 : 0), 3), 0x41);
const littleEndian = (value: number, bytes: number) =>
  Array.from({ length: bytes }, (_, at) => Math.floor(value / 256 ** at) % 256);

function outcomeOf(act: () => unknown): string {
  try {
    return String(act());
  } catch (error) {
    return error instanceof SitecastError ? error.code : `not a SitecastError: ${String(error)}`;
  }
}

it.each([MIN_ZSTD_LEVEL, 3, MAX_ZSTD_LEVEL])('decompresses what it compressed at level %i', level => {
  for (const plain of [
    TEXT,
    noise(300_000, 1),
    noise(1, 2),
    Buffer.alloc(MAX_CHUNK_BYTES),
    noise(MAX_CHUNK_BYTES, 3),
  ]) {
    const frame = compressFrame(plain, level);
    expect(frame.length).toBeLessThanOrEqual(MAX_FRAME_BYTES);
    expect(decompressExactly(frame, plain.length).equals(plain)).toBe(true);
    expect(decompressAtMost(frame).equals(plain)).toBe(true);
  }
});

it('makes exactly one frame, whatever its length: also one that fills the pieces of output which node:zlib makes', () => {
  const pieceBytes = 16 * 1024;
  const frameLengths = new Set<number>();
  for (const pieces of [1, 2, 3, 5])
    for (let lengthBytes = pieces * pieceBytes - 40; lengthBytes <= pieces * pieceBytes; lengthBytes++) {
      const plain = noise(lengthBytes, lengthBytes);
      const frame = compressFrame(plain);
      frameLengths.add(frame.length);
      expect(verifyFrame(chunkIdOf(plain), frame, Buffer.alloc(MAX_CHUNK_BYTES))).toBe(lengthBytes);
    }
  expect([1, 2, 3, 5].every(pieces => frameLengths.has(pieces * pieceBytes))).toBe(true);
});

it('compresses into memory of the caller, and refuses too little of it', () => {
  const plain = noise(100_000, 1);
  const target = Buffer.alloc(maxFrameBytes(plain.length) + 8, 0xee);
  const lengthBytes = compressInto(target.subarray(4, -4), plain, 3);
  expect(decompressExactly(target.subarray(4, 4 + lengthBytes), plain.length).equals(plain)).toBe(true);
  expect([target.readUInt32LE(0), target.readUInt32LE(target.length - 4)]).toEqual([0xeeeeeeee, 0xeeeeeeee]);
  expect(() => compressInto(Buffer.alloc(1000), plain, 3)).toThrow(/too small|out of bounds/);
});

it('reads frames that zstd writes without a content size and with a checksum, as casync does', context => {
  needsProgram(context, 'zstd', '--version');
  for (const option of ['--no-check', '--check']) {
    const frame = execFileSync('zstd', ['-c', option], { input: TEXT });
    expect(decompressExactly(frame, TEXT.length).equals(TEXT)).toBe(true);
  }
});

it('decompresses up to the bound, and never one byte more', () => {
  const frame = compressFrame(TEXT);
  const target = Buffer.alloc(TEXT.length + 8, 0xee);
  expect(decompressInto(target.subarray(0, TEXT.length), frame)).toBe(TEXT.length);
  expect(target.subarray(TEXT.length)).toEqual(Buffer.alloc(8, 0xee));
  expect(() => decompressInto(target.subarray(0, TEXT.length - 1), frame)).toThrow(invalidFrame);
  expect(() => decompressAtMost(frame, TEXT.length - 1)).toThrow(invalidFrame);
  expect(() => decompressExactly(frame, TEXT.length + 1)).toThrow(invalidFrame);
  expect(decompressAtMost(frame, TEXT.length).equals(TEXT)).toBe(true);
});

it('stops at the bound when a frame without a content size is a decompression bomb', () => {
  const blocks = Buffer.alloc((MAX_FRAME_BLOCKS - 1) * 4, rle(128 * 1024));
  const bomb = Buffer.concat([MAGIC, Buffer.of(0), window(7), blocks, rle(1, true)]);
  expect(bomb.length).toBeLessThan(MAX_FRAME_BYTES);
  const before = process.memoryUsage().rss;
  expect(() => decompressAtMost(bomb)).toThrow(invalidFrame);
  expect(process.memoryUsage().rss - before).toBeLessThan(64 * 2 ** 20);
  // The decoder can be used again after that.
  expect(decompressAtMost(compressFrame(TEXT)).equals(TEXT)).toBe(true);
});

it('accepts a frame up to the exact bound', () => {
  const blocks = Array.from({ length: 8 }, () => rle(128 * 1024));
  const full = Buffer.concat([MAGIC, Buffer.of(0), window(7), ...blocks, rle(0, true)]);
  expect(decompressAtMost(full).length).toBe(MAX_CHUNK_BYTES);
  const over = Buffer.concat([MAGIC, Buffer.of(0), window(7), ...blocks, rle(1, true)]);
  expect(() => decompressAtMost(over)).toThrow(invalidFrame);
});

it.each([
  ['nothing', Buffer.alloc(0)],
  ['the magic alone', MAGIC],
  ['plain bytes', TEXT],
  ['a frame cut off', compressFrame(TEXT).subarray(0, -1)],
  ['a frame with a byte behind it', Buffer.concat([compressFrame(TEXT), Buffer.of(0)])],
  ['two frames', Buffer.concat([compressFrame(TEXT), compressFrame(TEXT)])],
  ['a skippable frame', Buffer.of(0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9)],
  [
    'a skippable frame before a right one',
    Buffer.concat([Buffer.of(0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0), compressFrame(TEXT)]),
  ],
  [
    'a frame that needs a dictionary',
    Buffer.concat([MAGIC, Buffer.of(1), window(7), Buffer.of(5), rle(9, true)]),
  ],
  [
    'a claim of 2^60 bytes',
    Buffer.concat([MAGIC, Buffer.of(0xc0), window(7), Buffer.of(0, 0, 0, 0, 0, 0, 0, 0x10), rle(9, true)]),
  ],
  [
    'one segment of 4 GiB',
    Buffer.concat([MAGIC, Buffer.of(0xa0), Buffer.of(255, 255, 255, 255), rle(9, true)]),
  ],
  ['a window of 16 MiB', Buffer.concat([MAGIC, Buffer.of(0), window(14), rle(9, true)])],
  ['a window of 2 TiB', Buffer.concat([MAGIC, Buffer.of(0), window(31), rle(9, true)])],
  ['a claim that its content does not keep', Buffer.concat([MAGIC, Buffer.of(0x20, 10), rle(9, true)])],
  ['a reserved bit', Buffer.concat([MAGIC, Buffer.of(8), window(7), rle(9, true)])],
  ['a block of a reserved type', Buffer.concat([MAGIC, Buffer.of(0), window(7), Buffer.of(7, 0, 0)])],
  ['a checksum cut off', Buffer.concat([MAGIC, Buffer.of(4), window(7), rle(9, true), Buffer.of(1, 2)])],
  ['a wrong checksum', Buffer.concat([MAGIC, Buffer.of(4), window(7), rle(9, true), Buffer.of(1, 2, 3, 4)])],
  ['a frame over the limit', Buffer.alloc(MAX_FRAME_BYTES + 1)],
])('refuses %s', (_what, frame) => {
  expect(() => decompressAtMost(frame)).toThrow(invalidFrame);
});

it('accepts the largest allowed window', () => {
  expect(decompressAtMost(Buffer.concat([MAGIC, Buffer.of(0), window(13), rle(9, true)]))).toEqual(
    Buffer.alloc(9, 0x41),
  );
});

it('decodes any bytes to content within the bound, or throws SITECAST_FRAME_INVALID', () => {
  const right = compressFrame(Buffer.concat([TEXT, noise(3000, 1)]));
  const flips = fc.array(fc.tuple(fc.nat(right.length - 1), fc.nat(255)), { minLength: 1, maxLength: 5 });
  const anyFrame = fc.oneof(
    flips.map(changes => {
      const bytes = Buffer.from(right);
      for (const [at, value] of changes) bytes[at] = value;
      return bytes;
    }),
    fc.uint8Array({ maxLength: 60 }).map(tail => Buffer.concat([MAGIC, tail])),
  );
  fc.assert(
    fc.property(anyFrame, frame => {
      expect(outcomeOf(() => decompressAtMost(frame, 200_000).length <= 200_000)).toMatch(
        /^(true|SITECAST_FRAME_INVALID)$/,
      );
    }),
    { numRuns: 1000 },
  );
});

it('verifies a frame against an id whose memory is used again', () => {
  const scratch = Buffer.alloc(MAX_CHUNK_BYTES);
  const id = chunkIdOf(TEXT);
  expect(verifyFrame(id, compressFrame(TEXT, 1), scratch)).toBe(TEXT.length);
  expect(scratch.subarray(0, TEXT.length).equals(TEXT)).toBe(true);
  expect(() => verifyFrame(id, compressFrame(TEXT.subarray(1)), scratch)).toThrow(mismatch);
  expect(() => verifyFrame(id, TEXT, scratch)).toThrow(mismatch);
  const empty = Buffer.alloc(0);
  expect(() => verifyFrame(chunkIdOf(empty), compressFrame(empty), scratch)).toThrow(mismatch);
  expect(verifyFrame(id, compressFrame(TEXT), scratch)).toBe(TEXT.length);
});

it('converts a chunk between frame and plain bytes on demand, and checks it', () => {
  const id = chunkIdOf(TEXT);
  expect(Chunk.fromPlain(id, TEXT).verify(TEXT.length).frame().length).toBeLessThan(TEXT.length);
  expect(Buffer.compare(Chunk.fromFrame(id, compressFrame(TEXT)).verify().plain(), TEXT)).toBe(0);
  expect(() => Chunk.fromFrame(id, compressFrame(TEXT)).verify(TEXT.length - 1)).toThrow(mismatch);
  expect(() => Chunk.fromFrame(id, TEXT).verify()).toThrow(mismatch);
  expect(() => Chunk.fromPlain(id, TEXT.subarray(1)).verify()).toThrow(mismatch);
  const long = Buffer.alloc(MAX_CHUNK_BYTES + 1);
  expect(() => Chunk.fromPlain(chunkIdOf(long), long).verify()).toThrow(mismatch);
});
