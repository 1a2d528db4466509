import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { needsProgram } from '../../content/fixtures.ts';
import { SitecastError } from '../../errors.ts';
import { pakoFile } from './deflate.ts';
import { deflateParameter, PIECE_CODECS, type PieceCodec } from './index.ts';
import { sampleBytes } from './sample-bytes.ts';
import { encodedPiece } from '../testing/fixtures.ts';
import { zstdFile } from './zstd.ts';

const hashOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const wrongPiece = expect.objectContaining({ code: 'SITECAST_PATCH_PIECE' });

const lengthOrCode = (decode: () => Uint8Array): string => {
  try {
    return decode().length <= 20_000 ? 'at most as long' : 'longer';
  } catch (error) {
    return error instanceof SitecastError ? error.code : String(error);
  }
};

const decoded = (one: PieceCodec, bytes: Uint8Array, maxBytes: number): Uint8Array => {
  const into = new Uint8Array(maxBytes);
  return into.subarray(0, one.decode(bytes, into));
};

function codec(name: string): PieceCodec {
  const found = PIECE_CODECS.find(one => one.name === name);
  if (found === undefined) throw new Error(`no codec ${name}`);
  return found;
}

/**
 * Sample (its length and seed), encoder, parameter; then length and SHA-256 (first 16 digits) of the output of Debian 12's libzstd 1.5.4,
 * zlib 1.2.13, lz4 1.9.4 and liblzma 5.4.1.
 */
const PIECES: [
  lengthBytes: number,
  seed: number,
  name: string,
  parameter: number,
  length: number,
  hash: string,
][] = [
  [131_072, 1, 'zstd-1.5.5-wasm', 1, 49_151, 'e506edf1e67536ed'],
  [131_072, 1, 'zstd-1.5.5-wasm', 3, 44_705, 'bbec26c5e38b0338'],
  [131_072, 1, 'zstd-1.5.5-wasm', 15, 40_119, '70f24409cb95796c'],
  [131_072, 1, 'zstd-1.5.5-wasm', 22, 39_944, '1188f26c2853ffe8'],
  [8192, 3, 'zstd-1.5.5-wasm', 15, 2220, '4d91f19e5b5e724e'],
  [100, 4, 'zstd-1.5.5-wasm', 19, 16, 'f817509f4fa7c1e7'],
  [131_072, 1, 'pako-2.2.0', deflateParameter(9, 15, 0), 49_353, '7ea6d7a61eea8993'],
  [131_072, 1, 'pako-2.2.0', deflateParameter(6, 15, 0), 50_295, '1d007b40e7195df0'],
  [131_072, 1, 'pako-2.2.0', deflateParameter(1, 15, 0), 57_628, '5006d43ec25b14f5'],
  [131_072, 1, 'pako-2.2.0', deflateParameter(9, 12, 0), 72_326, '40a9a3ea7c029c8b'],
  [131_072, 1, 'pako-2.2.0', deflateParameter(9, 15, 1), 48_596, '936de6e66f231b56'],
  [8192, 3, 'pako-2.2.0', deflateParameter(9, 15, 3), 5681, '1f38bd292e4b0f02'],
  [1_048_576, 2, 'pako-2.2.0', deflateParameter(9, 15, 0), 548_541, 'a2c5d10c1af341b3'],
  [131_072, 1, 'lz4hc-1.9.4', 9, 48_045, 'df5f372f9460bbc1'],
  [1_048_576, 2, 'lz4hc-1.9.4', 9, 536_716, '082dc9dd32178917'],
  [8192, 3, 'lz4hc-1.9.4', 9, 2765, '33f28f055292546e'],
  [100, 4, 'lz4hc-1.9.4', 9, 11, '82483b895c717507'],
  [131_072, 1, 'liblzma-5.4-ported', 10, 37_496, '03afffbfa8ea51ba'],
  // More than its dictionary of 8 KiB holds, like blocks of metadata.
  [30_000, 6, 'liblzma-5.4-ported', 2, 10_132, 'f0bc9d430da0e589'],
  // Filters for jumps: x86, ARM, ARM-Thumb.
  [30_000, 6, 'liblzma-5.4-ported', 10 + 32 * 4, 8540, 'dbafeb66aaaf1bf8'],
  [30_000, 6, 'liblzma-5.4-ported', 10 + 32 * 7, 8616, 'ed601da74e18e54e'],
  [30_000, 6, 'liblzma-5.4-ported', 10 + 32 * 8, 8588, 'd8eed0f0ed703ca6'],
  [8192, 3, 'liblzma-5.4-ported', 2, 2112, '2b05a53f859c473d'],
  [100, 4, 'liblzma-5.4-ported', 2, 64, '3405f7891d5b1ea8'],
];

describe.each(PIECES)(
  'a sample of %i bytes (%i), %s with %i',
  (lengthBytes, seed, name, parameter, length, hash) => {
    it('is compressed to the very bytes that the C library makes, and decompressed again; with less room it is refused', () => {
      const plain = sampleBytes(lengthBytes, seed);
      const encoded = encodedPiece(codec(name), plain, parameter);
      expect(encoded.length).toBe(length);
      expect(hashOf(encoded).slice(0, 16)).toBe(hash);
      expect(hashOf(decoded(codec(name), encoded, lengthBytes))).toBe(hashOf(plain));
      expect(() => decoded(codec(name), encoded, lengthBytes - 1)).toThrow(wrongPiece);
    });
  },
);

it.each([
  [zstdFile, '998250a831af662f5f2539228ed6a0df5a16236b814d753564dfe3f04173ac5f'],
  [pakoFile, '8e59383452bdd910bd25acfe3ad4a59670dadae054a3759eb177704c4a8b4c53'],
])('runs the very file that was tried: %o', (fileOf, hash) => {
  expect(hashOf(readFileSync(fileOf()))).toBe(hash);
});

it.each(PIECE_CODECS)('$name takes no harm from a piece that is cut off or altered', one => {
  const plain = sampleBytes(20_000, 7);
  const encoded = encodedPiece(one, plain, one.name === 'pako-2.2.0' ? deflateParameter(9, 15, 0) : 9);
  fc.assert(
    fc.property(
      fc.nat(encoded.length - 1),
      fc.array(fc.tuple(fc.nat(encoded.length - 1), fc.nat(255)), { maxLength: 4 }),
      (length, changes) => {
        const altered = encoded.slice(0, changes.length === 0 ? length : undefined);
        for (const [at, value] of changes) altered[at] = value;
        expect(lengthOrCode(() => decoded(one, altered, plain.length))).toMatch(
          /^(at most as long|SITECAST_PATCH_PIECE)$/,
        );
      },
    ),
    { numRuns: 300 },
  );
  expect(hashOf(decoded(one, encoded, plain.length)), 'and goes on with the next').toBe(hashOf(plain));
});

it.each([0, 1, 4, 11, 12, 13, 20])('closes and opens pieces of %i bytes', lengthBytes => {
  const plain = sampleBytes(lengthBytes, 9);
  for (const one of PIECE_CODECS) {
    const encoded = encodedPiece(one, plain, one.name === 'pako-2.2.0' ? deflateParameter(6, 15, 0) : 9);
    expect(hashOf(decoded(one, encoded, lengthBytes))).toBe(hashOf(plain));
  }
});

it('compresses the longest blocks at any level of zstd, and refuses what needs more memory than a device has', () => {
  const zstd = codec('zstd-1.5.5-wasm');
  const block = sampleBytes(1_048_576, 2);
  for (const level of [16, 22])
    expect(hashOf(decoded(zstd, encodedPiece(zstd, block, level), block.length))).toBe(hashOf(block));
  expect(() => encodedPiece(zstd, sampleBytes(4_194_304, 2), 22)).toThrow(wrongPiece);
  expect(hashOf(decoded(zstd, encodedPiece(zstd, block, 3), block.length))).toBe(hashOf(block));
});

it('knows which parameters its encoders take', () => {
  expect([0, 1, 22, 23].map(level => codec('zstd-1.5.5-wasm').takes(level))).toEqual([
    false,
    true,
    true,
    false,
  ]);
  expect([8, 9, 10].map(level => codec('lz4hc-1.9.4').takes(level))).toEqual([false, true, false]);
  const xz = [0, 16, 17, 10 + 32 * 4, 10 + 32 * 5, 10 + 32 * 9];
  expect(xz.map(parameter => codec('liblzma-5.4-ported').takes(parameter))).toEqual([
    true,
    true,
    false,
    true,
    false,
    false,
  ]);
  const taken = (level: number, windowBits: number, strategy: number) =>
    codec('pako-2.2.0').takes(deflateParameter(level, windowBits, strategy));
  expect([taken(9, 15, 0), taken(1, 9, 4), taken(0, 15, 0), taken(9, 8, 0), taken(9, 15, 5)]).toEqual([
    true,
    true,
    false,
    false,
    false,
  ]);
});

it('codes bytes that no encoder can shorten, and what follows them, so that `xz` opens it', context => {
  const program = 'xz';
  needsProgram(context, program, '--version');
  const xz = codec('liblzma-5.4-ported');
  const plain = Buffer.concat([randomBytes(70_000), sampleBytes(10_000, 8)]);
  const encoded = encodedPiece(xz, plain, 12);
  expect(xz.parameterOf?.(encoded)).toBe(12);
  expect(hashOf(decoded(xz, encoded, plain.length))).toBe(hashOf(plain));
  const { stdout, status } = spawnSync(program, ['-dc'], { input: encoded, maxBuffer: 2 ** 20 });
  expect(status).toBe(0);
  expect(hashOf(stdout)).toBe(hashOf(plain));
});

it.each([
  ['a dictionary of 1.5 MiB', 17],
  ['a filter of another kind', 10 + 32 * 5],
])('takes no .xz piece with %s', (_, parameter) => {
  const xz = codec('liblzma-5.4-ported');
  const encoded = Buffer.from(encodedPiece(xz, sampleBytes(300, 1), 10 + 32 * 4));
  // After both lengths: the filter and the length of its properties, LZMA2 and the length of its properties, the dictionary.
  const at = encoded.indexOf(Buffer.of(4, 0, 0x21, 1, 10));
  encoded[at] = Math.floor(parameter / 32) || 4;
  encoded[at + 4] = parameter % 32;
  expect(() => xz.parameterOf?.(encoded)).toThrow(wrongPiece);
  expect(() => decoded(xz, encoded, 300)).toThrow(wrongPiece);
});
