import { createHash } from 'node:crypto';
import { type ChunkIndex, sameChunkId } from '../content/index.ts';

const ZEROS = Buffer.alloc(64 * 1024);

/**
 * Which chunks of an index hold only zeros, and so needn't be fetched. It hashes as many zeros as the longest chunk has, once, and reads
 * the SHA-256 at each length that the index has.
 * @returns 1 for such a chunk, by its number
 */
export function zeroChunks(index: ChunkIndex): Uint8Array {
  const lengths = new Set<number>();
  for (let at = 0; at < index.count; at += 1) lengths.add(index.lengthOf(at));
  const ids = zeroIds([...lengths].sort((one, other) => one - other));
  return Uint8Array.from({ length: index.count }, (_, at) => {
    const id = ids.get(index.lengthOf(at));
    return id && sameChunkId(id, index.idAt(at)) ? 1 : 0;
  });
}

/** @param lengths rising, in bytes */
function zeroIds(lengths: readonly number[]): Map<number, Buffer> {
  const ids = new Map<number, Buffer>();
  const hash = createHash('sha256');
  let hashedBytes = 0;
  for (const lengthBytes of lengths) {
    while (hashedBytes < lengthBytes) {
      const piece = ZEROS.subarray(0, lengthBytes - hashedBytes);
      hash.update(piece);
      hashedBytes += piece.length;
    }
    ids.set(lengthBytes, hash.copy().digest());
  }
  return ids;
}
