import { crc32c, unmasked } from './crc32c.ts';
import { readVarint, uncompressSnappy } from './snappy.ts';

const FOOTER_BYTES = 48;
const MAGIC = 0xdb4775248b80fb57n;
/** The trailer of each block: its compression type and its checksum. */
const TRAILER_BYTES = 5;
const UNCOMPRESSED = 0;
const SNAPPY = 1;

interface Handle {
  offset: number;
  lengthBytes: number;
}

/** What is wrong with a table file. */
export interface TableDamage {
  /** Offsets of the trailers of blocks whose checksum is wrong. The repair marks these. */
  trailers: number[];
  /** Why none of its blocks can be found; undefined where they can. */
  unreadable?: string;
}

/**
 * Checks a LevelDB table (leveldb, doc/table_format.md) by the checksums of its blocks: the binding reads without checking them, and hands
 * on whatever the disk gives.
 * @returns undefined where all is well
 */
export function checkTable(file: Buffer): TableDamage | undefined {
  if (file.length < FOOTER_BYTES || file.readBigUInt64LE(file.length - 8) !== MAGIC)
    return { trailers: [], unreadable: 'it ends within' };
  const metaindex = handleAt(file, file.length - FOOTER_BYTES);
  const index = metaindex && handleAt(file, metaindex.end);
  if (!metaindex || !index) return { trailers: [], unreadable: 'its footer is damaged' };
  const trailers: number[] = [];
  for (const list of [index, metaindex]) {
    const handles = isGood(file, list) ? handlesIn(file, list) : undefined;
    if (!handles) return { trailers: [], unreadable: 'its index is damaged' };
    for (const handle of handles)
      if (!isGood(file, handle)) trailers.push(handle.offset + handle.lengthBytes);
  }
  return trailers.length > 0 ? { trailers } : undefined;
}

function isGood(file: Buffer, { offset, lengthBytes }: Handle): boolean {
  const trailer = offset + lengthBytes;
  if (trailer + TRAILER_BYTES > file.length) return false;
  return crc32c(file.subarray(offset, trailer + 1)) === unmasked(file.readUInt32LE(trailer + 1));
}

/** The values of an index block, whose checksum is right. */
function handlesIn(file: Buffer, { offset, lengthBytes }: Handle): Handle[] | undefined {
  const stored = file.subarray(offset, offset + lengthBytes);
  const type = file.readUInt8(offset + lengthBytes);
  const block = type === SNAPPY ? uncompressSnappy(stored) : type === UNCOMPRESSED ? stored : undefined;
  if (!block || block.length < 4) return undefined;
  const end = block.length - 4 * (block.readUInt32LE(block.length - 4) + 1);
  const handles: Handle[] = [];
  for (let at = 0; at < end; ) {
    const entry = entryAt(block, at);
    const handle = entry && handleAt(block, entry.valueAt);
    if (!handle) return undefined;
    handles.push(handle);
    at = entry.end;
  }
  return handles;
}

/** The value of an entry lies behind three lengths and the part of its key that differs from the key before. */
function entryAt(block: Buffer, at: number): { valueAt: number; end: number } | undefined {
  const shared = readVarint(block, at);
  const unshared = shared && readVarint(block, shared.end);
  const length = unshared && readVarint(block, unshared.end);
  if (!length) return undefined;
  const valueAt = length.end + unshared.value;
  return { valueAt, end: valueAt + length.value };
}

function handleAt(bytes: Buffer, at: number): (Handle & { end: number }) | undefined {
  const offset = readVarint(bytes, at);
  const length = offset && readVarint(bytes, offset.end);
  return length && { offset: offset.value, lengthBytes: length.value, end: length.end };
}
