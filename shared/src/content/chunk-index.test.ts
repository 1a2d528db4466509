import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, expect, it } from 'vitest';
import { SitecastError } from '../errors.ts';
import { chunkIdOf, sha256 } from './chunk-id.ts';
import { ChunkIndex, ChunkIndexBuilder, MAX_INDEX_CHUNKS } from './chunk-index.ts';
import {
  CASYNC_MAKE,
  needsProgram,
  noise,
  removeTemporaryDirectories,
  run,
  temporaryDirectory,
} from './fixtures.ts';
import { MAX_CHUNK_BYTES, MAX_INDEX_BYTES } from './limits.ts';

afterAll(removeTemporaryDirectories);

const SIZES = { minBytes: 16384, avgBytes: 65536, maxBytes: 262144 };
const ID = chunkIdOf(Buffer.from('a'));

function indexOf(ends: number[], sizes = SIZES): ChunkIndex {
  const builder = new ChunkIndexBuilder(sizes);
  for (const end of ends) builder.add(chunkIdOf(Buffer.from(String(end))), end);
  return builder.finish();
}

/** A valid index with some of its bytes replaced. */
function tampered(change: (bytes: Buffer) => Buffer | undefined): Buffer {
  const bytes = Buffer.from(indexOf([100, 200, 300]).encode());
  return change(bytes) ?? bytes;
}

function codeOf(bytes: Uint8Array): string {
  try {
    ChunkIndex.decode(bytes);
    return 'read';
  } catch (error) {
    return error instanceof SitecastError ? error.code : `not a SitecastError: ${String(error)}`;
  }
}

it('writes the same bytes as casync for one small file', () => {
  // `printf x >one; casync make --digest=sha256 one.caibx one`, casync 2
  const builder = new ChunkIndexBuilder(SIZES);
  builder.add(sha256(Buffer.from('x')), 1);
  expect(builder.finish().encode().toString('hex')).toBe(
    [
      '3000000000000000f99f127b9c4d82960000000000000090004000000000000000000100000000000000040000000000',
      'ffffffffffffffff7d41172f119e5be7',
      '01000000000000002d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881',
      '0000000000000000000000000000000030000000000000006000000000000000d1ec49550e054f4b',
    ].join(''),
  );
});

it('reads what casync wrote, and writes it again byte for byte', async context => {
  needsProgram(context, 'casync', '--version');
  const folder = await temporaryDirectory();
  const image = Buffer.concat([noise(700_000, 1), Buffer.alloc(600_000), noise(200_000, 1)]);
  await writeFile(join(folder, 'image'), image);
  await run('casync', ...CASYNC_MAKE, `--store=${folder}/s.castr`, `${folder}/i.caibx`, `${folder}/image`);
  const theirs = await readFile(join(folder, 'i.caibx'));

  const index = ChunkIndex.decode(theirs);

  expect(index.lengthBytes).toBe(image.length);
  expect(index.sizes).toEqual(SIZES);
  const builder = new ChunkIndexBuilder(index.sizes);
  for (const { id, offset, lengthBytes } of index.places()) {
    expect(id).toEqual(sha256(image.subarray(offset, offset + lengthBytes)));
    builder.add(id, offset + lengthBytes);
  }
  expect(builder.finish().encode()).toEqual(theirs);
});

it('gives offsets, lengths and the chunk at an offset', () => {
  const index = indexOf([100, 101, 4000]);
  expect(index.count).toBe(3);
  expect([...index.places()].map(({ offset, lengthBytes }) => [offset, lengthBytes])).toEqual([
    [0, 100],
    [100, 1],
    [101, 3899],
  ]);
  expect([0, 99, 100, 101, 3999].map(offset => index.chunkAt(offset))).toEqual([0, 0, 1, 2, 2]);
  expect([-1, 4000].map(offset => index.chunkAt(offset))).toEqual([undefined, undefined]);
  expect(index.startOf(2)).toBe(101);
  expect(index.lengthOf(2)).toBe(3899);
  expect(() => index.idAt(3)).toThrow(RangeError);
});

it('finds chunks by their ids, repeated ones at their first place', () => {
  const builder = new ChunkIndexBuilder(SIZES);
  const ids = ['a', 'b', 'a', 'c'].map(text => chunkIdOf(Buffer.from(text)));
  for (const [at, id] of ids.entries()) builder.add(id, at + 1);
  const index = builder.finish();
  expect(ids.map(id => index.find(id))).toEqual([0, 1, 0, 3]);
  expect(ids.map((_id, at) => index.nextSame(at))).toEqual([2, undefined, undefined, undefined]);
  expect(index.find(chunkIdOf(Buffer.from('d')))).toBeUndefined();
});

it('keeps offsets beyond 2^32', () => {
  const maxBytes = MAX_CHUNK_BYTES;
  const ends = Array.from({ length: 4097 }, (_, at) => (at + 1) * maxBytes);
  const index = ChunkIndex.decode(indexOf(ends, { minBytes: 1, avgBytes: 1, maxBytes }).encode());
  expect(index.lengthBytes).toBe(2 ** 32 + maxBytes);
  expect(index.chunkAt(2 ** 32)).toBe(4096);
});

it.each([
  ['nothing', 'SITECAST_INDEX_TRUNCATED', () => Buffer.alloc(0)],
  ['a cut within the header', 'SITECAST_INDEX_TRUNCATED', (bytes: Buffer) => bytes.subarray(0, 47)],
  ['a cut within the table', 'SITECAST_INDEX_TRUNCATED', (bytes: Buffer) => bytes.subarray(0, 150)],
  [
    'a cut between two chunks',
    'SITECAST_INDEX_TAIL',
    (bytes: Buffer) => bytes.subarray(0, bytes.length - 40),
  ],
  ['another kind of file', 'SITECAST_INDEX_NOT_CAIBX', (bytes: Buffer) => bytes.fill(1, 8, 16)],
  ['another header size', 'SITECAST_INDEX_NOT_CAIBX', (bytes: Buffer) => bytes.fill(1, 0, 1)],
  ['SHA-512/256 ids', 'SITECAST_INDEX_DIGEST', (bytes: Buffer) => bytes.fill(0xb0, 23, 24)],
  ['a directory tree', 'SITECAST_INDEX_FEATURES', (bytes: Buffer) => bytes.fill(1, 16, 17)],
  ['no minimum size', 'SITECAST_INDEX_CHUNK_SIZES', (bytes: Buffer) => bytes.fill(0, 24, 32)],
  ['sizes out of order', 'SITECAST_INDEX_CHUNK_SIZES', (bytes: Buffer) => bytes.fill(0xff, 24, 27)],
  ['chunks over the limit', 'SITECAST_INDEX_CHUNK_SIZES', (bytes: Buffer) => bytes.fill(0x11, 40, 43)],
  ['no table', 'SITECAST_INDEX_TABLE', (bytes: Buffer) => bytes.fill(0, 56, 64)],
  ['a table of known size', 'SITECAST_INDEX_TABLE', (bytes: Buffer) => bytes.fill(0, 48, 56)],
  [
    'a wrong table size',
    'SITECAST_INDEX_TAIL',
    (bytes: Buffer) => bytes.fill(1, bytes.length - 16, bytes.length - 15),
  ],
  ['a wrong marker', 'SITECAST_INDEX_TAIL', (bytes: Buffer) => bytes.fill(1, bytes.length - 1)],
  [
    'bytes where zeros belong',
    'SITECAST_INDEX_TAIL',
    (bytes: Buffer) => bytes.fill(1, bytes.length - 40, bytes.length - 39),
  ],
  ['an offset that stands still', 'SITECAST_INDEX_OFFSETS', (bytes: Buffer) => bytes.fill(100, 104, 105)],
  ['an offset that goes back', 'SITECAST_INDEX_OFFSETS', (bytes: Buffer) => bytes.fill(50, 104, 105)],
  ['an offset beyond 2^53', 'SITECAST_INDEX_OFFSETS', (bytes: Buffer) => bytes.fill(0x7f, 151, 152)],
  [
    'a chunk over its own maximum',
    'SITECAST_INDEX_CHUNK_TOO_LARGE',
    (bytes: Buffer) => bytes.fill(0x10, 146, 147),
  ],
])('refuses %s', (_what, code, change) => {
  expect(codeOf(tampered(change))).toBe(code);
});

it('refuses an empty image', () => {
  expect(() => new ChunkIndexBuilder(SIZES).finish()).toThrow(
    expect.objectContaining({ code: 'SITECAST_INDEX_EMPTY' }),
  );
});

it('accepts chunks of the largest size and no larger', () => {
  const sizes = { ...SIZES, maxBytes: MAX_CHUNK_BYTES };
  expect(indexOf([MAX_CHUNK_BYTES], sizes).lengthBytes).toBe(MAX_CHUNK_BYTES);
  expect(() => indexOf([MAX_CHUNK_BYTES + 1], sizes)).toThrow(
    expect.objectContaining({ code: 'SITECAST_INDEX_CHUNK_TOO_LARGE' }),
  );
  expect(() => indexOf([1], { ...SIZES, maxBytes: MAX_CHUNK_BYTES + 1 })).toThrow(
    expect.objectContaining({ code: 'SITECAST_INDEX_CHUNK_SIZES' }),
  );
});

it('holds as many chunks as MAX_INDEX_BYTES has room for, and not one more', () => {
  const builder = new ChunkIndexBuilder(SIZES);
  for (let at = 1; at <= MAX_INDEX_CHUNKS; at++) builder.add(ID, at);
  expect(() => builder.add(ID, MAX_INDEX_CHUNKS + 1)).toThrow(
    expect.objectContaining({ code: 'SITECAST_INDEX_TOO_LARGE' }),
  );
  const encoded = builder.finish().encode();
  expect(encoded.length).toBeLessThanOrEqual(MAX_INDEX_BYTES);
  expect(encoded.length).toBeGreaterThan(MAX_INDEX_BYTES - 40);
  expect(codeOf(Buffer.alloc(MAX_INDEX_BYTES + 1))).toBe('SITECAST_INDEX_TOO_LARGE');
});

it('decodes any bytes to an index, or throws a SitecastError', () => {
  const right = indexOf([1000, 2000, 3000, 260_000]).encode();
  const flips = fc.array(fc.tuple(fc.nat(right.length - 1), fc.nat(255)), { maxLength: 4 });
  fc.assert(
    fc.property(flips, fc.nat(80), fc.uint8Array({ maxLength: 80 }), (changes, cut, appended) => {
      const bytes = Buffer.concat([right.subarray(0, right.length - (cut > 40 ? cut - 40 : 0)), appended]);
      for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value;
      expect(codeOf(bytes)).toMatch(/^(read|SITECAST_INDEX_[A-Z_]+)$/);
    }),
    { numRuns: 1500 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), bytes => {
      expect(codeOf(bytes)).toMatch(/^SITECAST_INDEX_/);
    }),
  );
});
