import { createHash } from 'node:crypto';
import { type ChunkIndex, sameChunkId } from '@sitecast/shared/content';
import type { SlotReader } from '../ports.ts';

/** The chunks of an image that a slot doesn't hold in their places. */
export class MissingChunks {
  readonly #isMissing: Uint8Array;
  count = 0;
  lengthBytes = 0;

  constructor(chunks: number) {
    this.#isMissing = new Uint8Array(chunks);
  }

  has(at: number): boolean {
    return this.#isMissing[at] === 1;
  }

  add(at: number, lengthBytes: number): void {
    if (this.has(at)) return;
    this.#isMissing[at] = 1;
    this.count += 1;
    this.lengthBytes += lengthBytes;
  }
}

/**
 * Hashes a slot at the index's offsets. The slot is the journal: what lies right there needs no other note.
 * @param reader undefined: nothing is there yet
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
  const missing = new MissingChunks(index.count);
  let isEnded = reader === undefined;
  let offset = 0;
  for (let at = 0; at < index.count; at += 1) {
    signal?.throwIfAborted();
    const end = index.endOf(at);
    const lengthBytes = end - offset;
    const isRight =
      !isEnded && reader !== undefined && (await holds(reader, index.idAt(at), offset, lengthBytes));
    if (isRight === 'ended') isEnded = true;
    if (isRight !== true) missing.add(at, lengthBytes);
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
