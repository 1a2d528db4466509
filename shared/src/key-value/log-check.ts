import { crc32c, unmasked } from './crc32c.ts';

const BLOCK_BYTES = 32 * 1024;
/** Checksum, length, type. */
const HEADER_BYTES = 7;
const [FULL, FIRST, , LAST] = [1, 2, 3, 4];

interface Piece {
  start: number;
  end: number;
}

/** A record's part that lies in one block. */
interface Fragment extends Piece {
  type: number;
}

/**
 * Finds what LevelDB would skip in a log (leveldb, doc/log_format.md): from a record whose checksum is wrong to the end of its block.
 * `RepairDB` doesn't look at these checksums.
 * @returns pieces of the file. An incomplete record at the end isn't one of them: it was being written
 */
export function damagedPieces(log: Buffer): Piece[] {
  const pieces: Piece[] = [];
  for (const piece of fragments(log)) if (!('type' in piece)) pieces.push(piece);
  return pieces;
}

/** The records of a log, without an incomplete one at its end; undefined where one of them is damaged. */
export function recordsIn(log: Buffer): Buffer[] | undefined {
  const records: Buffer[] = [];
  let parts: Buffer[] = [];
  for (const piece of fragments(log)) {
    if (!('type' in piece)) return undefined;
    const { type, start, end } = piece;
    if (type === FULL || type === FIRST) parts = [];
    parts.push(log.subarray(start, end));
    if (type === FULL || type === LAST) records.push(Buffer.concat(parts));
  }
  return records;
}

/** Fragments; a damaged piece is one without a type. */
function* fragments(log: Buffer): Generator<Fragment | Piece> {
  for (let start = 0; start < log.length; start += BLOCK_BYTES) {
    const end = Math.min(start + BLOCK_BYTES, log.length);
    for (let at = start; at + HEADER_BYTES <= end; ) {
      const lengthBytes = log.readUInt16LE(at + 4);
      const type = log.readUInt8(at + 6);
      const next = at + HEADER_BYTES + lengthBytes;
      // Zeros fill the rest of the block.
      if (lengthBytes === 0 && type === 0) break;
      if (next > end && end === log.length) break;
      if (next > end || crc32c(log.subarray(at + 6, next)) !== unmasked(log.readUInt32LE(at))) {
        yield { start: at, end };
        break;
      }
      yield { type, start: at + HEADER_BYTES, end: next };
      at = next;
    }
  }
}
