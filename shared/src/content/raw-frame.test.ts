import { expect, it } from 'vitest';
import { noise } from './fixtures.ts';
import { Chunk, chunkIdOf, decompressExactly, MAX_CHUNK_BYTES, MAX_FRAME_BYTES } from './index.ts';
import { longestFrameBytes, MAX_FRAME_BLOCKS } from './limits.ts';
import { rawFrame } from './raw-frame.ts';

it.each([1, 2, 65_536, 128 * 1024 - 1, 128 * 1024, 128 * 1024 + 1, 256 * 1024, MAX_CHUNK_BYTES])(
  'holds %i bytes as any zstd decoder reads them',
  lengthBytes => {
    const plain = noise(lengthBytes, 'raw');
    const frame = Buffer.concat(rawFrame(plain));
    expect(frame.length).toBeLessThanOrEqual(MAX_FRAME_BYTES);
    const chunk = Chunk.fromFrame(chunkIdOf(plain), frame).verify(lengthBytes);
    expect(Buffer.compare(chunk.plain(), plain)).toBe(0);
  },
);

it('is refused where its blocks hold more or less than it claims', () => {
  const plain = noise(1000, 'raw');
  for (const claimed of [999, 1001]) {
    const frame = Buffer.concat(rawFrame(plain));
    frame.writeUInt32LE(claimed, 5);
    expect(() => decompressExactly(frame, claimed)).toThrow(/its blocks hold something else/);
  }
});

it('copies no content', () => {
  const plain = noise(200_000, 'raw');
  const content = rawFrame(plain).filter((_, at) => at % 2 === 1);
  expect(content.every(({ buffer }) => buffer === plain.buffer)).toBe(true);
});

const EMPTY = Buffer.alloc(0);

/** A raw block: its header, then its content. */
function rawBlock(content: Uint8Array, isLast = false): Buffer {
  const head = Buffer.alloc(3);
  head.writeUIntLE((content.length << 3) | (isLast ? 1 : 0), 0, 3);
  return Buffer.concat([head, content]);
}

/** A frame of these raw blocks, which tells the length of its content. */
function frameOf(blocks: readonly Uint8Array[]): Buffer {
  const [head = EMPTY] = rawFrame(Buffer.concat(blocks));
  return Buffer.concat([
    head.subarray(0, 9),
    ...blocks.map((it, at) => rawBlock(it, at === blocks.length - 1)),
  ]);
}

const wrong = expect.objectContaining({ code: 'SITECAST_CHUNK_MISMATCH' });

it('is the wrong bytes where empty blocks make it longer than its content may', () => {
  const plain = noise(1000, 'raw');
  const id = chunkIdOf(plain);
  const padded = (blocks: number) => frameOf([...Array.from({ length: blocks }, () => EMPTY), plain]);
  const most = Math.floor((longestFrameBytes(1000) - padded(0).length) / 3);
  expect(Buffer.compare(Chunk.fromFrame(id, padded(most)).verify().plain(), plain)).toBe(0);
  for (const lengthBytes of [undefined, 1000])
    expect(() => Chunk.fromFrame(id, padded(most + 1)).verify(lengthBytes)).toThrow(wrong);
});

it('is read up to so many blocks, however short they are', () => {
  const plain = noise(MAX_FRAME_BLOCKS * 100, 'raw');
  const blocks = Array.from({ length: MAX_FRAME_BLOCKS }, (_, at) =>
    plain.subarray(at * 100, (at + 1) * 100),
  );
  const more = frameOf([...blocks, EMPTY]);
  expect(() => decompressExactly(more, plain.length)).toThrow(/more than 8192 blocks/);
  // As many are read; they are too many for that content.
  expect(() => decompressExactly(frameOf(blocks), plain.length)).toThrow(/for a content of 819200/);
});

it('is compressed only if its blocks are full: others go through the decoder', () => {
  const plain = Buffer.alloc(200_000, 'a site behind a thin link, ');
  const full = Buffer.concat(rawFrame(plain));
  const split = frameOf([plain.subarray(0, 100_000), plain.subarray(100_000)]);
  const compacted = (frame: Uint8Array) =>
    Chunk.fromFrame(chunkIdOf(plain), frame).verify().compact().frame();
  expect(compacted(full).length).toBeLessThan(1000);
  expect(compacted(split)).toBe(split);
});
