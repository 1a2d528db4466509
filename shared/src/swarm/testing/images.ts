// For tests only: an image of incompressible chunks, its index, and their chunks.
import { type Chunk, type ChunkIndex, ChunkIndexBuilder, DEFAULT_CHUNK_SIZES } from '../../content/index.ts';
import { noiseChunks } from './memory-store.ts';

export interface TestImage {
  readonly index: ChunkIndex;
  readonly chunks: readonly Chunk[];
}

export function testImage(count: number, chunkBytes: number): TestImage {
  const chunks = noiseChunks(count, chunkBytes, 'image');
  const builder = new ChunkIndexBuilder(DEFAULT_CHUNK_SIZES);
  for (const [at, { id }] of chunks.entries()) builder.add(id, (at + 1) * chunkBytes);
  return { index: builder.finish(), chunks };
}

export const numbers = (count: number): number[] => Array.from({ length: count }, (_, at) => at);
