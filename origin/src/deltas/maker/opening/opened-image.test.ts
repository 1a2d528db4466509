import { MAX_OPENED_BASE_BYTES } from '@sitecast/shared/delta';
import { describe, expect, it } from 'vitest';
import { type ImageRange, OpenedImage } from './opened-image.ts';
import { PieceMap } from './piece-map.ts';

const MIB = 2 ** 20;
const BLOCK = { length: 3 * MIB, plainLength: 8 * MIB };
const FIRST = MIB;
/** Before each block of a kernel there are 4 bytes with its length. */
const SECOND = FIRST + BLOCK.length + 4;

/** Two blocks of a kernel, in an image of 10 MiB. */
const kernel = new OpenedImage(10 * MIB, [
  {
    codec: 'lz4hc-1.9.4',
    parameter: 9,
    pieces: new PieceMap([
      { offset: FIRST, ...BLOCK },
      { offset: SECOND, ...BLOCK },
    ]),
  },
]);

function openedBytes({ length, layers }: ImageRange): number {
  const pieces = layers.flatMap(layer => layer.pieces);
  return pieces.reduce((sum, piece) => sum + piece.plainLength - piece.length, length);
}

describe('the base range of a window', () => {
  /** Where the second block begins in the opened image. */
  const between = kernel.toOpened(SECOND);

  it.each([
    ['lies evenly around the end of a block', between - 2 * MIB, between + 2 * MIB],
    ['touches both blocks', between - 5, between + 1],
    ['lies a little more in the first one', between - 3 * MIB, between + MIB],
    ['lies a little more in the second one', between - MIB, between + 3 * MIB],
    ['is longer than it may be', 0, kernel.openedBytes],
  ])('holds no more than a device opens where it %s', (_, from, to) => {
    const range = kernel.baseRange(from, to);
    expect(openedBytes(range)).toBeLessThanOrEqual(MAX_OPENED_BASE_BYTES);
    expect(range.layers.flatMap(({ pieces }) => pieces)).toHaveLength(1);
  });

  it('opens the longest piece where a block of the outer layer holds the ends of two', () => {
    // A kernel in a squashfs: one block of the squashfs holds the end of a kernel block, and the whole of the kernel's last one, which is
    // all zeros.
    const zeros = { length: 40_000, plainLength: 8 * MIB };
    const nested = new OpenedImage(2 * MIB, [
      {
        codec: 'zstd',
        parameter: 15,
        pieces: new PieceMap([{ offset: 0, length: MIB, plainLength: 4 * MIB }]),
      },
      {
        codec: 'lz4hc-1.9.4',
        parameter: 9,
        pieces: new PieceMap([
          { offset: 1000, ...BLOCK },
          { offset: 1000 + BLOCK.length + 4, ...zeros },
        ]),
      },
    ]);
    const range = nested.baseRange(0, nested.openedBytes);
    expect(openedBytes(range)).toBeLessThanOrEqual(MAX_OPENED_BASE_BYTES);
    expect(range.layers.map(({ pieces }) => pieces)).toEqual([
      [{ offset: 0, length: MIB, plainLength: 4 * MIB }],
      [{ offset: 1000, ...BLOCK }],
    ]);
  });

  it('is all that was asked for, if that fits, even where it is short', () => {
    expect(kernel.baseRange(0, 1000)).toMatchObject({ offset: 0, length: 1000, layers: [] });
    const small = new OpenedImage(40_000, []);
    expect(small.baseRange(0, 40_000)).toMatchObject({ offset: 0, length: 40_000 });
  });
});
