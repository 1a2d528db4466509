/** Bytes that can be read at any place: an image, or the opened image. */
export interface ByteSource {
  readonly sizeBytes: number;
  /** Exactly `length` bytes from `offset` on; both lie inside. */
  read(offset: number, length: number): Promise<Uint8Array>;
}

/** The content doesn't follow its format, so the image isn't opened. An image comes from a publisher, and may hold anything. */
export class NotOpened extends Error {
  override readonly name = 'NotOpened';
}

/** Reads a range that a header names. Throws `NotOpened` where the range lies beyond the end. */
export function readInside(source: ByteSource, offset: number, length: number): Promise<Uint8Array> {
  if (!Number.isSafeInteger(offset) || offset < 0 || length < 0 || offset + length > source.sizeBytes) {
    throw new NotOpened(`${length} bytes at ${offset} of ${source.sizeBytes}`);
  }
  return source.read(offset, length);
}

const BLOCK_BYTES = 256 * 1024;

/** Caches the last block that was read: for a reader of many small tables that follow one another. */
export function blockwise(source: ByteSource): ByteSource {
  let start = 0;
  let block = new Uint8Array();
  return {
    sizeBytes: source.sizeBytes,
    read: async (offset, length) => {
      if (length > BLOCK_BYTES) return source.read(offset, length);
      if (offset < start || offset + length > start + block.length) {
        block = new Uint8Array(await source.read(offset, Math.min(BLOCK_BYTES, source.sizeBytes - offset)));
        start = offset;
      }
      return block.subarray(offset - start, offset - start + length);
    },
  };
}
