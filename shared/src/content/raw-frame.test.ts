import { expect, it } from 'vitest';
import { noise } from './fixtures.ts';
import { Chunk, chunkIdOf, decompressExactly, MAX_CHUNK_BYTES, MAX_FRAME_BYTES } from './index.ts';
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
