import { SitecastError } from '../errors.ts';
import { MAX_FRAME_BLOCKS } from './limits.ts';

const MAGIC = 0xfd2fb528;
const FIXED_HEADER_BYTES = 5;
const BLOCK_HEADER_BYTES = 3;
const CHECKSUM_BYTES = 4;
const MAX_BLOCK_BYTES = 128 * 1024;
const RAW_BLOCK = 0;
const RLE_BLOCK = 1;
const RESERVED_BLOCK = 3;

/** What a zstd frame says of itself, before any of it is decompressed. */
export interface FrameShape {
  /** Window that a decoder would have to keep, in bytes. */
  readonly windowBytes: number;
  /** Length of the content, where the frame claims one (casync's don't). */
  readonly contentBytes: number | undefined;
  /** Where the content lies, if all blocks hold it as it is, and all but the last as much of it as a block may. */
  readonly rawContent: RawContent | undefined;
}

/** Raw blocks, one behind the other: a header, then MAX_BLOCK_BYTES of content, fewer in the last. */
export interface RawContent {
  /** Offset of the first block's header in the frame. */
  readonly blocksAt: number;
  /** Content of all blocks, in bytes. */
  readonly lengthBytes: number;
}

/**
 * Reads a frame's header and walks over its blocks (RFC 8878, 3.1.1): the bytes must be exactly one whole frame.
 * Skippable frames, frames that need a dictionary, more frames behind the first, and trailing bytes are refused: a
 * chunk has none of those, and decoders differ in what they make of them.
 * @throws SITECAST_FRAME_INVALID
 */
export function readFrameShape(frame: Uint8Array): FrameShape {
  const bytes = Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength);
  const descriptor = readDescriptor(bytes);
  const isSingleSegment = (descriptor & 0b10_0000) !== 0;
  const contentFieldBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >>> 6] ?? 0;
  const contentAt = FIXED_HEADER_BYTES + (isSingleSegment ? 0 : 1);
  const blocksAt = contentAt + contentFieldBytes;
  if (bytes.length < blocksAt) throw invalid('it ends within its header');
  const contentBytes = readContentBytes(bytes, contentAt, contentFieldBytes);
  const windowBytes = isSingleSegment
    ? (contentBytes ?? 0)
    : readWindowBytes(bytes.readUInt8(FIXED_HEADER_BYTES));

  const checksumBytes = (descriptor & 0b100) === 0 ? 0 : CHECKSUM_BYTES;
  const { endAt, rawBytes } = walkBlocks(bytes, blocksAt);
  const end = endAt + checksumBytes;
  if (end > bytes.length) throw invalid('it is cut off');
  if (end < bytes.length) throw invalid('bytes follow its end');
  // A decoder checks the checksum; whoever takes the blocks as they are wouldn't.
  const isRaw = rawBytes !== undefined && checksumBytes === 0;
  const rawContent = isRaw ? { blocksAt, lengthBytes: rawBytes } : undefined;
  return { windowBytes, contentBytes, rawContent };
}

/** The pieces of a frame's content, in order: views of the frame, one for each raw block. */
export function* rawPieces(frame: Uint8Array, { blocksAt, lengthBytes }: RawContent): Generator<Uint8Array> {
  let at = blocksAt;
  for (let leftBytes = lengthBytes; leftBytes > 0; leftBytes -= MAX_BLOCK_BYTES) {
    at += BLOCK_HEADER_BYTES;
    yield frame.subarray(at, at + Math.min(leftBytes, MAX_BLOCK_BYTES));
    at += MAX_BLOCK_BYTES;
  }
}

function readDescriptor(bytes: Buffer): number {
  if (bytes.length < FIXED_HEADER_BYTES || bytes.readUInt32LE(0) !== MAGIC)
    throw invalid('it does not begin as a zstd frame');
  const descriptor = bytes.readUInt8(4);
  if ((descriptor & 0b1000) !== 0) throw invalid('it uses a reserved bit');
  if ((descriptor & 0b11) !== 0) throw invalid('it needs a dictionary');
  return descriptor;
}

function readWindowBytes(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >>> 3));
  return base + (base / 8) * (descriptor & 0b111);
}

function readContentBytes(bytes: Buffer, at: number, fieldBytes: number): number | undefined {
  switch (fieldBytes) {
    case 0:
      return undefined;
    case 1:
      return bytes.readUInt8(at);
    case 2:
      return bytes.readUInt16LE(at) + 256;
    case 4:
      return bytes.readUInt32LE(at);
    default:
      return bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 2 ** 32;
  }
}

/**
 * @returns where the last block ends, beyond the bytes' end if the frame is cut off; and how much content its blocks hold as it is, in bytes,
 *   if all do, and all but the last are full
 * @throws SITECAST_FRAME_INVALID also for more than MAX_FRAME_BLOCKS: blocks may be empty, so a frame's length doesn't bound them
 */
function walkBlocks(bytes: Buffer, from: number): { endAt: number; rawBytes: number | undefined } {
  let at = from;
  let rawBytes: number | undefined = 0;
  for (let blocks = 0; blocks < MAX_FRAME_BLOCKS; blocks += 1) {
    if (at + BLOCK_HEADER_BYTES > bytes.length) throw invalid('it is cut off');
    const header = bytes.readUIntLE(at, BLOCK_HEADER_BYTES);
    const isLast = (header & 1) !== 0;
    const type = (header >>> 1) & 0b11;
    const lengthBytes = header >>> 3;
    if (type === RESERVED_BLOCK) throw invalid('it holds a block of a reserved type');
    const isRaw =
      type === RAW_BLOCK && (isLast ? lengthBytes <= MAX_BLOCK_BYTES : lengthBytes === MAX_BLOCK_BYTES);
    rawBytes = isRaw && rawBytes !== undefined ? rawBytes + lengthBytes : undefined;
    at += BLOCK_HEADER_BYTES + (type === RLE_BLOCK ? 1 : lengthBytes);
    if (isLast) return { endAt: at, rawBytes };
  }
  throw invalid(`it has more than ${MAX_FRAME_BLOCKS} blocks`);
}

function invalid(what: string): SitecastError {
  return new SitecastError('untrusted', 'SITECAST_FRAME_INVALID', `not the zstd frame of a chunk: ${what}`);
}
