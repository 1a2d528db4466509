/** RFC 8878, 3.1.1.2.4: the longest block. */
const MAX_BLOCK_BYTES = 128 * 1024;
const BLOCK_HEADER_BYTES = 3;
/** Magic number, descriptor, length of the content. */
const FRAME_HEADER_BYTES = 9;
const MAGIC = 0xfd2fb528;
/** One segment; the content's length takes four bytes; no checksum, no dictionary. */
const DESCRIPTOR = 0b1010_0000;

/**
 * A zstd frame of raw blocks around plain bytes (RFC 8878, 3.1.1.2.2), without compressing or copying them: the casync form for
 * who has a chunk plain.
 * @returns the frame's pieces, in order; those that hold content are views of `plain`
 */
export function rawFrame(plain: Uint8Array): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let from = 0; from === 0 || from < plain.length; from += MAX_BLOCK_BYTES) {
    const block = plain.subarray(from, from + MAX_BLOCK_BYTES);
    const isLast = from + block.length === plain.length;
    const head = Buffer.allocUnsafe((from === 0 ? FRAME_HEADER_BYTES : 0) + BLOCK_HEADER_BYTES);
    if (from === 0) {
      head.writeUInt32LE(MAGIC, 0);
      head.writeUInt8(DESCRIPTOR, 4);
      head.writeUInt32LE(plain.length, 5);
    }
    head.writeUIntLE(
      (block.length << 3) | (isLast ? 1 : 0),
      head.length - BLOCK_HEADER_BYTES,
      BLOCK_HEADER_BYTES,
    );
    pieces.push(head, block);
  }
  return pieces;
}
