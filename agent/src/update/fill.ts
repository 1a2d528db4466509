import type { ChunkIndex } from '@sitecast/shared/content';
import type { SlotWriter } from '../ports.ts';
import type { MissingChunks } from './compare.ts';
import { MissingPlaces } from './places.ts';
import type { ChunkSources } from '../install/sources.ts';

export interface FillOptions {
  index: ChunkIndex;
  missing: MissingChunks;
  sources: ChunkSources;
  writer: SlotWriter;
  /** Chunks on their way at once: each takes one buffer of the longest chunk's length. */
  concurrency: number;
  signal: AbortSignal;
  /** Called with the bytes that have been written so far. */
  onProgress: (doneBytes: number) => void;
}

/**
 * Writes the missing chunks to their places. Each is verified before its first byte is written; memory is bounded by
 * `concurrency`, whatever the image's length.
 * @throws as `ChunkSources.fetch` and `SlotWriter.write`; by then nothing is under way any more
 */
export async function fillSlot(options: FillOptions): Promise<void> {
  const { index, missing, concurrency, signal } = options;
  const places = new MissingPlaces(index, missing);
  const failed = new AbortController();
  const both = AbortSignal.any([signal, failed.signal]);
  let doneBytes = 0;
  const work = async () => {
    const buffer = Buffer.allocUnsafeSlow(index.sizes.maxBytes);
    for (let first = places.take(); first !== undefined; first = places.take()) {
      both.throwIfAborted();
      doneBytes += await fillOne(options, { places, first, buffer, signal: both });
      options.onProgress(doneBytes);
    }
  };
  const workers = Array.from({ length: Math.min(concurrency, missing.count) }, async () => {
    try {
      await work();
    } catch (error) {
      failed.abort(error);
      throw error;
    }
  });
  await Promise.allSettled(workers);
  signal.throwIfAborted();
  // The first failure, not the abortions that it caused.
  failed.signal.throwIfAborted();
}

async function fillOne(
  { index, sources, writer }: FillOptions,
  {
    places,
    first,
    buffer,
    signal,
  }: { places: MissingPlaces; first: number; buffer: Buffer; signal: AbortSignal },
): Promise<number> {
  const plain = await sources.fetch(index.idAt(first), {
    lengthBytes: index.lengthOf(first),
    into: buffer,
    signal,
  });
  let writtenBytes = 0;
  for (const at of places.placesOf(first)) {
    await writer.write(plain, index.startOf(at));
    writtenBytes += plain.length;
  }
  return writtenBytes;
}
