import { crc32c, unmasked } from './crc32c.ts';

const BLOCK_BYTES = 32 * 1024;
/** Checksum, length, type. */
const HEADER_BYTES = 7;

/**
 * Finds what LevelDB would skip of a log (leveldb, doc/log_format.md): from a record whose checksum is wrong to the end of its block.
 * `RepairDB` doesn't look at these checksums.
 * @returns pieces of the file; a record that the file ends within isn't one: it was being written
 */
export function damagedPieces(log: Buffer): { start: number; end: number }[] {
  const pieces: { start: number; end: number }[] = [];
  for (let start = 0; start < log.length; start += BLOCK_BYTES) {
    const end = Math.min(start + BLOCK_BYTES, log.length);
    const bad = firstBad(log, start, end);
    if (bad !== undefined) pieces.push({ start: bad, end });
  }
  return pieces;
}

function firstBad(log: Buffer, start: number, end: number): number | undefined {
  for (let at = start; at + HEADER_BYTES <= end; ) {
    const lengthBytes = log.readUInt16LE(at + 4);
    const next = at + HEADER_BYTES + lengthBytes;
    // Zeros, which nothing follows in this block.
    if (lengthBytes === 0 && log.readUInt8(at + 6) === 0) return undefined;
    if (next > end) return end === log.length ? undefined : at;
    if (crc32c(log.subarray(at + 6, next)) !== unmasked(log.readUInt32LE(at))) return at;
    at = next;
  }
  return undefined;
}
