import { createHash } from 'node:crypto';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import {
  chunkIdFromHex,
  chunkIdOf,
  chunkIdToHex,
  chunkPath,
  countIds,
  eachId,
  sameChunkId,
} from './chunk-id.ts';
import { ChunkIdSet } from './chunk-id-set.ts';

const HEX_OF_ABC = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad';

it('names a chunk by the SHA-256 of its plain bytes', () => {
  expect(chunkIdToHex(chunkIdOf(Buffer.from('abc')))).toBe(HEX_OF_ABC);
});

it('has the path that casync uses', () => {
  expect(chunkPath(chunkIdFromHex(HEX_OF_ABC))).toBe(`ba78/${HEX_OF_ABC}.cacnk`);
});

it.each([
  ['short', HEX_OF_ABC.slice(1)],
  ['long', `${HEX_OF_ABC}0`],
  ['in capitals', HEX_OF_ABC.toUpperCase()],
  ['with a path in it', `../${HEX_OF_ABC.slice(3)}`],
  ['with a line end', `${HEX_OF_ABC}\n`],
])('refuses an id that is %s', (_what, hex) => {
  expect(() => chunkIdFromHex(hex)).toThrow(expect.objectContaining({ code: 'SITECAST_CHUNK_ID_INVALID' }));
});

it('refuses a list of ids that ends within an id', () => {
  expect(countIds(Buffer.alloc(64))).toBe(2);
  expect(() => countIds(Buffer.alloc(63))).toThrow(
    expect.objectContaining({ code: 'SITECAST_CHUNK_ID_INVALID' }),
  );
  expect(() => chunkPath(Buffer.alloc(31))).toThrow(
    expect.objectContaining({ code: 'SITECAST_CHUNK_ID_INVALID' }),
  );
});

it('keeps a set of ids as a Set of their hex would', () => {
  const id = fc.nat(5000).map(seed => createHash('sha256').update(String(seed)).digest());
  fc.assert(
    fc.property(fc.array(id, { maxLength: 3000 }), ids => {
      const set = new ChunkIdSet();
      const model = new Set<string>();
      for (const one of ids) {
        expect(set.add(one)).toBe(!model.has(one.toString('hex')));
        model.add(one.toString('hex'));
      }
      expect(set.size).toBe(model.size);
      expect([...eachId(set.bytes())].map(chunkIdToHex)).toEqual([...model]);
      expect(set.has(Buffer.alloc(32))).toBe(false);
      expect(set.positionOf(Buffer.alloc(32))).toBeUndefined();
      const order = [...model];
      expect(ids.map(one => set.positionOf(one))).toEqual(ids.map(one => order.indexOf(one.toString('hex'))));
    }),
    { numRuns: 20 },
  );
});

it('finds ids that differ in their last byte only', () => {
  const set = new ChunkIdSet();
  const ids = Array.from({ length: 256 }, (_, last) => Buffer.concat([Buffer.alloc(31, 7), Buffer.of(last)]));
  for (const id of ids) expect(set.add(id)).toBe(true);
  expect(set.size).toBe(256);
  expect(ids.every(id => set.has(id))).toBe(true);
  expect(sameChunkId(Buffer.alloc(32, 1), Buffer.alloc(32, 2))).toBe(false);
});
