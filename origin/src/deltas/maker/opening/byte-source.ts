/** Bytes that can be read anywhere: an image, or the same with its pieces opened. */
export interface ByteSource {
  readonly sizeBytes: number;
  /** Exactly `length` bytes from `offset` on; both lie inside. */
  read(offset: number, length: number): Promise<Uint8Array>;
}

/** An image whose content isn't as its format wants it. The image is then not opened: it's the publisher's, and may be anything. */
export class NotOpened extends Error {
  override readonly name = 'NotOpened';
}

/** Reads a range that a header names: beyond the end is malformed. */
export function readInside(source: ByteSource, offset: number, length: number): Promise<Uint8Array> {
  if (!Number.isSafeInteger(offset) || offset < 0 || length < 0 || offset + length > source.sizeBytes) {
    throw new NotOpened(`${length} bytes at ${offset} of ${source.sizeBytes}`);
  }
  return source.read(offset, length);
}

const BLOCK_BYTES = 256 * 1024;

/** Remembers the last block that was read: for a reader of many small tables that follow one another. */
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
