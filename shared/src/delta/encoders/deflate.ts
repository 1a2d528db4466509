import { createRequire } from 'node:module';
import { PieceOutput } from './piece-output.ts';
import { wrongPiece } from './wrong-piece.ts';

/** The part of pako's API that is used here. */
interface Pako {
  Deflate: new (options: DeflateOptions & { chunkSize: number }) => Stream;
  Inflate: new (options: { chunkSize: number }) => Stream & { ended: boolean };
}

interface Stream {
  err: number;
  onData: (part: Uint8Array) => void;
  push(bytes: Uint8Array, isLast: boolean): boolean;
}

const require = createRequire(import.meta.url);

/** The one file of pako that is loaded, and only when it's needed: a device may leave the package out. */
export function pakoFile(): string {
  return require.resolve('pako-2.2.0/dist/pako.js');
}

let loaded: Pako | undefined;

function pako(): Pako {
  if (loaded === undefined) {
    const module: Pako = require(pakoFile());
    loaded = module;
  }
  return loaded;
}

/** zlib's options as `deflateInit2` takes them, with its usual memory level (8). */
export interface DeflateOptions {
  /** 1 to 9. */
  level: number;
  /** 9 to 15. */
  windowBits: number;
  /** 0 to 4: default, filtered, Huffman only, run lengths, fixed codes. */
  strategy: number;
}

/** pako hands over its output in parts of this length. */
const PART_BYTES = 64 * 1024;

/**
 * Compresses to one zlib stream (RFC 1950), byte for byte as zlib 1.2 does: pako 2.2.0 is a port of it. Bytes that don't fit `into` are
 * dropped. @returns the length of the whole stream
 */
export function encodeDeflate(plain: Uint8Array, options: DeflateOptions, into: Uint8Array): number {
  const stream = new (pako().Deflate)({ ...options, chunkSize: PART_BYTES });
  const output = new PieceOutput(into);
  stream.onData = part => output.add(part);
  stream.push(plain, true);
  if (stream.err !== 0) wrongPiece(`zlib says ${stream.err}`);
  return output.length;
}

/**
 * Decompresses one zlib stream, which must end where `bytes` ends. Throws `SITECAST_PATCH_PIECE` otherwise, or where `into` is too short.
 * @returns the length of the content
 */
export function decodeDeflate(bytes: Uint8Array, into: Uint8Array): number {
  const stream = new (pako().Inflate)({ chunkSize: PART_BYTES });
  let length = 0;
  stream.onData = part => {
    if (part.length > into.length - length) wrongPiece('it is larger than stated');
    into.set(part, length);
    length += part.length;
  };
  stream.push(bytes, true);
  if (stream.err !== 0 || !stream.ended) wrongPiece(`zlib says ${stream.err}`);
  return length;
}
