import { createRequire } from 'node:module';
import { PieceOutput } from './piece-output.ts';
import { wrongPiece } from './wrong-piece.ts';

/** What of pako is used here. */
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

/** The one file that runs. A device may leave the package out: it's loaded when it's needed. */
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

/** How zlib was told to compress: as `deflateInit2` takes it, with its usual memory level (8). */
export interface DeflateOptions {
  /** 1 to 9. */
  level: number;
  /** 9 to 15. */
  windowBits: number;
  /** 0 to 4: default, filtered, Huffman only, run lengths, fixed codes. */
  strategy: number;
}

/** pako gives what it makes in parts of this length. */
const PART_BYTES = 64 * 1024;

/** One zlib stream (RFC 1950), as zlib 1.2 makes it: pako 2.2.0 is a port of it. As much of it is written as `into` holds. @returns the length of all of it */
export function encodeDeflate(plain: Uint8Array, options: DeflateOptions, into: Uint8Array): number {
  const stream = new (pako().Deflate)({ ...options, chunkSize: PART_BYTES });
  const output = new PieceOutput(into);
  stream.onData = part => output.add(part);
  stream.push(plain, true);
  if (stream.err !== 0) wrongPiece(`zlib says ${stream.err}`);
  return output.length;
}

/** The content of one zlib stream, which must end where `bytes` ends. Throws `SITECAST_PATCH_PIECE` otherwise, or where `into` is shorter. @returns its length */
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
