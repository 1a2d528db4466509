import { createRequire } from 'node:module';
import { wrongPiece } from './wrong-piece.ts';

/** What of pako is used here. */
interface Pako {
  Deflate: new (options: DeflateOptions & { chunkSize: number }) => Stream & { result: Uint8Array };
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

/** One zlib stream (RFC 1950), as zlib 1.2 makes it: pako 2.2.0 is a port of it. */
export function encodeDeflate(plain: Uint8Array, options: DeflateOptions): Uint8Array {
  const stream = new (pako().Deflate)({ ...options, chunkSize: plain.length + 1024 });
  stream.push(plain, true);
  if (stream.err !== 0) wrongPiece(`zlib says ${stream.err}`);
  return stream.result;
}

/** The content of one zlib stream, which must end where `bytes` ends. Throws `SITECAST_PATCH_PIECE` otherwise, or beyond `maxBytes`. */
export function decodeDeflate(bytes: Uint8Array, maxBytes: number): Uint8Array {
  const stream = new (pako().Inflate)({ chunkSize: maxBytes + 1 });
  let length = 0;
  const parts: Uint8Array[] = [];
  stream.onData = part => {
    length += part.length;
    if (length > maxBytes) wrongPiece('it is larger than stated');
    parts.push(part);
  };
  stream.push(bytes, true);
  if (stream.err !== 0 || !stream.ended) wrongPiece(`zlib says ${stream.err}`);
  return parts.length === 1 && parts[0] !== undefined ? parts[0] : new Uint8Array(Buffer.concat(parts));
}
