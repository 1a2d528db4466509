import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { needsProgram, noise } from '../../content/fixtures.ts';
import { bzip2, codeOf, lzma } from '../testing/fixtures.ts';
import { decodeStream } from './index.ts';
import type { StreamCodec } from './stream-codec.ts';

/** Properties as the first byte of an LZMA stream has them: lc=3 lp=0 pb=0, and the extremes. */
const PROPERTIES = [
  [3, 0, 0],
  [0, 4, 4],
  [4, 0, 2],
  [1, 2, 1],
] as const;

function decoded(codec: StreamCodec, stream: Uint8Array, lengthBytes: number): Buffer {
  const plain = Buffer.alloc(lengthBytes);
  decodeStream(codec, stream, plain);
  return plain;
}

/** Bytes like those of diffs: runs, repetitions and noise. */
const pieces = fc.array(
  fc.oneof(
    fc.tuple(fc.nat(255), fc.integer({ min: 1, max: 600 })).map(([byte, times]) => Buffer.alloc(times, byte)),
    fc.tuple(fc.nat(9), fc.integer({ min: 1, max: 300 })).map(([seed, bytes]) => noise(bytes, seed)),
    fc.constantFrom('sitecast', 'aaaabaaaab', '\0\0\0\x01').map(text => Buffer.from(text.repeat(40))),
  ),
  { minLength: 1, maxLength: 60 },
);

// `printf 'banana bandana, banana bandana\n'`, coded by bzip2 1.0.8 and xz 5.4.1 (--lzma1=preset=6,lc=3,lp=0,pb=0).
const TEXT = Buffer.from('banana bandana, banana bandana\n');
const FIXTURES: Record<Exclude<StreamCodec, 'stored'>, Buffer> = {
  bzip2: Buffer.from(
    '39314159265359ac70ce9700000951000010400434012000310c00554f534da999394b1296c79a3e2ee48a70a12158e19d2e',
    'hex',
  ),
  lzma: Buffer.from('0331190d853902e6aae87e6fc21061411cf332e05bf9933900', 'hex'),
};

describe.each(['bzip2', 'lzma'] as const)('%s', codec => {
  it('gives back a text', () => {
    expect(decoded(codec, FIXTURES[codec], TEXT.length)).toEqual(TEXT);
  });

  it('tells how many bytes it needs, and decodes without those after them', () => {
    const needed = decodeStream(codec, FIXTURES[codec], new Uint8Array(TEXT.length));
    expect(needed).toBeLessThan(FIXTURES[codec].length);
    expect(decoded(codec, FIXTURES[codec].subarray(0, needed), TEXT.length)).toEqual(TEXT);
  });

  it('gives bytes or an error with a code, whatever byte is changed', () => {
    const stream = FIXTURES[codec];
    fc.assert(
      fc.property(fc.nat(stream.length - 1), fc.nat(255), (at, value) => {
        const changed = Buffer.from(stream);
        changed[at] = value;
        expect(codeOf(() => decoded(codec, changed, TEXT.length))).toMatch(/^done$|^SITECAST_PATCH_STREAM$/);
      }),
      { numRuns: 2000 },
    );
  });
});

it('refuses a bzip2 stream that is cut off, or gives fewer or more bytes than it should', () => {
  const stream = FIXTURES.bzip2;
  const needed = decodeStream('bzip2', stream, new Uint8Array(TEXT.length));
  for (let length = 0; length < needed; length += 1)
    expect(codeOf(() => decoded('bzip2', stream.subarray(0, length), TEXT.length))).toBe(
      'SITECAST_PATCH_STREAM',
    );
  for (const length of [0, TEXT.length - 1, TEXT.length + 1])
    expect(codeOf(() => decoded('bzip2', stream, length))).toBe(
      length === 0 ? 'done' : 'SITECAST_PATCH_STREAM',
    );
});

it('reads at most 8 bytes beyond the end of an LZMA stream', () => {
  const noisy = Buffer.concat([Buffer.of(3), noise(100, 5)]);
  expect(codeOf(() => decoded('lzma', noisy, 3000))).toBe('SITECAST_PATCH_STREAM');
  expect(codeOf(() => decoded('lzma', Buffer.of(3), 3))).toBe('done');
  for (const length of [0, 3, 10, 20])
    expect(codeOf(() => decoded('lzma', FIXTURES.lzma.subarray(0, length), TEXT.length + 1000))).toBe(
      'SITECAST_PATCH_STREAM',
    );
});

it('gives back what bzip2 coded', context => {
  needsProgram(context, 'bzip2', '--help');
  fc.assert(
    fc.property(pieces, fc.integer({ min: 1, max: 9 }), (parts, level) => {
      const plain = Buffer.concat(parts);
      expect(decoded('bzip2', bzip2(plain, level).subarray(3), plain.length).equals(plain)).toBe(true);
    }),
    { numRuns: 25 },
  );
  // Several blocks, and codes that are longer than the table's.
  const long = Buffer.concat([noise(250_000, 1), Buffer.alloc(400_000, 7), skewed(300_000)]);
  expect(decoded('bzip2', bzip2(long, 1).subarray(3), long.length).equals(long)).toBe(true);
});

it('gives back what LZMA coded, with any properties', context => {
  needsProgram(context, 'xz', '--version');
  fc.assert(
    fc.property(pieces, fc.constantFrom(...PROPERTIES), (parts, properties) => {
      const plain = Buffer.concat(parts);
      expect(decoded('lzma', withoutZero(lzma(plain, properties)), plain.length).equals(plain)).toBe(true);
    }),
    { numRuns: 25 },
  );
  const far = Buffer.concat([noise(3_000_000, 2), skewed(300_000), noise(3_000_000, 2)]);
  expect(decoded('lzma', withoutZero(lzma(far)), far.length).equals(far)).toBe(true);
});

it('refuses LZMA properties that cannot be', () => {
  for (const properties of [225, 255, 3 + 2 * 9, 8])
    expect(
      codeOf(() =>
        decoded('lzma', Buffer.concat([Buffer.of(properties), FIXTURES.lzma.subarray(1)]), TEXT.length),
      ),
    ).toBe('SITECAST_PATCH_STREAM');
});

/** As a patch holds an LZMA stream: without its first byte. */
function withoutZero(stream: Buffer): Buffer {
  return Buffer.concat([stream.subarray(0, 1), stream.subarray(2)]);
}

/** Bytes of which each is half as frequent as the one before. */
function skewed(lengthBytes: number): Buffer {
  return Buffer.from(
    noise(lengthBytes, 3).map((_, at) => Math.clz32(((at + 1) * 2_654_435_761) >>> 0) * 8 + (at % 3)),
  );
}
