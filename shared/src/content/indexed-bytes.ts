import type { ChunkIndex } from './chunk-index.ts';

/**
 * A range of what an index describes, put together from its chunks.
 * @param offset in bytes; the range must lie inside of what the index describes
 * @param plain the bytes of chunk number `chunk`, exactly as many as the index says
 * @throws what `plain` throws
 */
export async function readIndexed(
  index: ChunkIndex,
  { offset, lengthBytes }: { readonly offset: number; readonly lengthBytes: number },
  plain: (chunk: number) => Promise<Uint8Array>,
): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(lengthBytes);
  const end = offset + lengthBytes;
  for (
    let at = lengthBytes === 0 ? index.count : firstEndingAfter(index, offset);
    at < index.count;
    at += 1
  ) {
    const start = index.startOf(at);
    if (start >= end) break;
    const chunk = await plain(at);
    const part = chunk.subarray(Math.max(0, offset - start), Math.min(chunk.length, end - start));
    bytes.set(part, Math.max(0, start - offset));
  }
  return bytes;
}

/** The number of the first chunk that ends after an offset. */
function firstEndingAfter(index: ChunkIndex, offset: number): number {
  let [low, high] = [0, index.count];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (index.endOf(middle) > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}
