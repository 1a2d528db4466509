import { createHash } from 'node:crypto';
import { type ChunkIndex, sameChunkId } from '@sitecast/shared/content';
import type { SlotReader } from '../ports.ts';

/** The chunks of an image that a slot doesn't hold in their places, by their numbers in the index. */
export class MissingChunks {
  readonly #index: ChunkIndex;
  readonly #isMissing: Uint8Array;
  #count = 0;
  #lengthBytes = 0;

  constructor(index: ChunkIndex) {
    this.#index = index;
    this.#isMissing = new Uint8Array(index.count);
  }

  get count(): number {
    return this.#count;
  }

  /** The total length of the missing chunks, in plain bytes. */
  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  has(at: number): boolean {
    return this.#isMissing[at] === 1;
  }

  add(at: number): void {
    if (this.has(at)) return;
    this.#isMissing[at] = 1;
    this.#count += 1;
    this.#lengthBytes += this.#index.lengthOf(at);
  }

  /** Called when the chunk is in its place. */
  remove(at: number): void {
    if (!this.has(at)) return;
    this.#isMissing[at] = 0;
    this.#count -= 1;
    this.#lengthBytes -= this.#index.lengthOf(at);
  }

  /**
   * The chunks to fetch, in the image's order, each chunk id once: an image may repeat a chunk (runs of zeros). A fetched chunk is written
   * to all of its `placesOf`.
   */
  *firsts(): Generator<number> {
    const isRepeated = new Uint8Array(this.#index.count);
    for (let at = 0; at < this.#index.count; at += 1) {
      if (!this.has(at) || isRepeated[at] === 1) continue;
      for (const place of this.placesOf(at)) isRepeated[place] = 1;
      yield at;
    }
  }

  /** All missing places of a chunk that `firsts` returned. */
  *placesOf(first: number): Generator<number> {
    for (let at: number | undefined = first; at !== undefined; at = this.#index.nextSame(at))
      if (this.has(at)) yield at;
  }
}

/**
 * Hashes the slot's bytes at the index's offsets. The slot itself is the journal: no other note says which chunks are in place.
 * @param reader undefined: the slot holds nothing yet
 * @param onProgress called with the bytes read so far
 */
export async function compareWithIndex(
  index: ChunkIndex,
  reader: SlotReader | undefined,
  {
    signal,
    onProgress,
  }: { signal?: AbortSignal | undefined; onProgress?: ((doneBytes: number) => void) | undefined } = {},
): Promise<MissingChunks> {
  const missing = new MissingChunks(index);
  let isEnded = reader === undefined;
  let offset = 0;
  for (let at = 0; at < index.count; at += 1) {
    signal?.throwIfAborted();
    const end = index.endOf(at);
    const isRight =
      !isEnded && reader !== undefined && (await holds(reader, index.idAt(at), offset, end - offset));
    if (isRight === 'ended') isEnded = true;
    if (isRight !== true) missing.add(at);
    onProgress?.(end);
    offset = end;
  }
  return missing;
}

async function holds(
  reader: SlotReader,
  id: Uint8Array,
  offset: number,
  lengthBytes: number,
): Promise<boolean | 'ended'> {
  const hash = createHash('sha256');
  const isThere = await reader.read(offset, lengthBytes, piece => hash.update(piece));
  return isThere ? sameChunkId(hash.digest(), id) : 'ended';
}
