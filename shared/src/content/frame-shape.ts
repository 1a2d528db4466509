import { SitecastError } from '../errors.ts';

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
  /** The content itself, where all blocks hold it as it is: views of the frame, in order. */
  readonly rawBlocks: readonly Uint8Array[] | undefined;
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
  const { endAt, rawBlocks } = walkBlocks(bytes, blocksAt);
  const end = endAt + checksumBytes;
  if (end > bytes.length) throw invalid('it is cut off');
  if (end < bytes.length) throw invalid('bytes follow its end');
  // A decoder checks the checksum; whoever takes the blocks as they are wouldn't.
  return { windowBytes, contentBytes, rawBlocks: checksumBytes === 0 ? rawBlocks : undefined };
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

/** Where the last block ends: beyond the bytes' end if the frame is cut off. */
function walkBlocks(
  bytes: Buffer,
  from: number,
): { endAt: number; rawBlocks: readonly Uint8Array[] | undefined } {
  let at = from;
  let rawBlocks: Uint8Array[] | undefined = [];
  for (;;) {
    if (at + BLOCK_HEADER_BYTES > bytes.length) throw invalid('it is cut off');
    const header = bytes.readUIntLE(at, BLOCK_HEADER_BYTES);
    const type = (header >>> 1) & 0b11;
    const lengthBytes = header >>> 3;
    if (type === RESERVED_BLOCK) throw invalid('it holds a block of a reserved type');
    at += BLOCK_HEADER_BYTES;
    if (type === RAW_BLOCK && lengthBytes <= MAX_BLOCK_BYTES)
      rawBlocks?.push(bytes.subarray(at, at + lengthBytes));
    else rawBlocks = undefined;
    at += type === RLE_BLOCK ? 1 : lengthBytes;
    if ((header & 1) !== 0) return { endAt: at, rawBlocks };
  }
}

function invalid(what: string): SitecastError {
  return new SitecastError('untrusted', 'SITECAST_FRAME_INVALID', `not the zstd frame of a chunk: ${what}`);
}
