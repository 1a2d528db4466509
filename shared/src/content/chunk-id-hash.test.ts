import { expect, it } from 'vitest';
import { CHUNK_ID_BYTES } from './chunk-id.ts';
import { chunkIdHash } from './chunk-id-hash.ts';
import { ChunkIdSet } from './chunk-id-set.ts';
import { ChunkNumbers } from './chunk-numbers.ts';

const COUNT = 20_000;

/** Ids that someone chose, all of them different. */
const chosen: [what: string, at: (id: Buffer, number: number) => void][] = [
  ['count up', (id, number) => void id.writeUInt32LE(number, 8 * (number % 3))],
  ['differ in the upper bits of their words', (id, number) => spread(id, number, 3)],
  ['differ in the upper bits of their words, read from the other end', (id, number) => spread(id, number, 0)],
];

/** Three bits of the number in each word: as the upper ones of the byte there. */
function spread(id: Buffer, number: number, byteInWord: number): void {
  for (let word = 0; word < CHUNK_ID_BYTES / 4; word += 1)
    id[word * 4 + byteInWord] = ((number >> (word * 3)) & 7) << 5;
}

const idsOf = (write: (id: Buffer, number: number) => void): Buffer[] =>
  Array.from({ length: COUNT }, (_, number) => {
    const id = Buffer.alloc(CHUNK_ID_BYTES, 0xab);
    write(id, number);
    return id;
  });

it.each(chosen)('ids that %s have different hashes', (_what, write) => {
  const hashes = idsOf(write).map(chunkIdHash);
  // Of random numbers about 0.05 would be equal, and about 50 of the upper and the lower halves of 2^22 slots. Simple tabulation is
  // 3-independent: where words of a few bytes cancel out, which happens once in some hundred processes, some hundred more are.
  expect(new Set(hashes).size).toBeGreaterThan(0.9 * COUNT);
  expect(new Set(hashes.map(hash => hash >>> 10)).size).toBeGreaterThan(0.9 * COUNT);
  expect(new Set(hashes.map(hash => hash & (2 ** 22 - 1))).size).toBeGreaterThan(0.9 * COUNT);
});

it.each(chosen)('chunks whose ids %s are found after a few comparisons', (_what, write) => {
  const ids = idsOf(write);
  let compared = 0;
  const numbers = new ChunkNumbers({
    count: COUNT,
    idAt: at => {
      compared += 1;
      return ids[at] ?? Buffer.alloc(0);
    },
  });
  expect(ids.findIndex((id, at) => numbers.find(id) !== at)).toBe(-1);
  // About 4 for each id: one that is read to place it, and what is compared then and when it is found.
  expect(compared).toBeLessThan(10 * COUNT);
});

it('a set holds chosen ids at their positions', () => {
  for (const [, write] of chosen) {
    const ids = idsOf(write);
    const set = new ChunkIdSet();
    for (const id of ids) expect(set.add(id)).toBe(true);
    expect(ids.findIndex((id, at) => set.positionOf(id) !== at)).toBe(-1);
  }
});
