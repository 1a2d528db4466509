import { wrongPiece } from './wrong-piece.ts';

/**
 * Decodes one LZ4 block (lz4's `doc/lz4_Block_format.md`). Throws `SITECAST_PATCH_PIECE` where the block is malformed or its content is
 * longer than `into`.
 * @returns the length of the content in bytes
 */
export function decodeLz4Block(block: Uint8Array, into: Uint8Array): number {
  const decoder = new Lz4Decoder(block, into);
  while (decoder.sequence()) {
    // Goes on with the next sequence.
  }
  if (decoder.isCutOff) wrongPiece('an LZ4 block is cut off');
  return decoder.written;
}

/** Decodes the beginning of a block that was cut off anywhere. Literals that aren't complete are left out. Otherwise like `decodeLz4Block`. */
export function decodeLz4Beginning(block: Uint8Array, into: Uint8Array): number {
  const decoder = new Lz4Decoder(block, into);
  while (decoder.sequence()) {
    // Goes on with the next sequence.
  }
  return decoder.written;
}

export class Lz4Decoder {
  /** Whether the block ended within a sequence. */
  isCutOff = false;
  readonly #block: Uint8Array;
  readonly #out: Uint8Array;
  #read = 0;
  #written = 0;

  constructor(block: Uint8Array, into: Uint8Array) {
    this.#block = block;
    this.#out = into;
  }

  /** How many bytes were decoded. */
  get written(): number {
    return this.#written;
  }

  /** Decodes one sequence. Returns false at the end. */
  sequence(): boolean {
    const block = this.#block;
    const token = block[this.#read];
    if (token === undefined) return false;
    this.#read++;
    const literals = this.#length(token >>> 4);
    if (literals > this.#out.length - this.#written) wrongPiece('LZ4 literals are longer than stated');
    if (literals > block.length - this.#read) return this.#cutOff();
    this.#out.set(block.subarray(this.#read, this.#read + literals), this.#written);
    this.#read += literals;
    this.#written += literals;
    if (this.#read === block.length) return false;
    const low = block[this.#read];
    const high = block[this.#read + 1];
    this.#read += 2;
    const length = this.#length(token & 15) + 4;
    if (low === undefined || high === undefined) return this.#cutOff();
    this.#copy(low | (high << 8), length);
    return !this.isCutOff;
  }

  #length(nibble: number): number {
    let length = nibble;
    for (let byte: number | undefined = nibble === 15 ? 255 : 0; byte === 255; ) {
      byte = this.#block[this.#read++];
      if (byte === undefined) this.isCutOff = true;
      length += byte ?? 0;
    }
    return length;
  }

  #cutOff(): false {
    this.isCutOff = true;
    return false;
  }

  /** Copies bytes from `offset` bytes before; source and target may overlap. */
  #copy(offset: number, length: number): void {
    const out = this.#out;
    const to = this.#written;
    if (offset === 0 || offset > to || length > out.length - to) wrongPiece('an LZ4 match reaches outside');
    if (offset >= length && length > 32) out.copyWithin(to, to - offset, to - offset + length);
    else for (let at = to; at < to + length; at++) out[at] = out[at - offset] ?? 0;
    this.#written += length;
  }
}
