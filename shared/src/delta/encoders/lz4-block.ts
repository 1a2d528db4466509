import { wrongPiece } from './wrong-piece.ts';

/**
 * Decodes one LZ4 block (lz4's `doc/lz4_Block_format.md`). Throws `SITECAST_PATCH_PIECE` where the block is malformed or gives more than `into` holds.
 * @returns how many bytes it gives
 */
export function decodeLz4Block(block: Uint8Array, into: Uint8Array): number {
  const decoder = new Lz4Decoder(block, into);
  while (decoder.sequence()) {
    // The next one.
  }
  if (decoder.isCutOff) wrongPiece('an LZ4 block is cut off');
  return decoder.written;
}

/** Decodes the beginning of a block that is cut off anywhere, but for literals that aren't all there. Otherwise like `decodeLz4Block`. */
export function decodeLz4Beginning(block: Uint8Array, into: Uint8Array): number {
  const decoder = new Lz4Decoder(block, into);
  while (decoder.sequence()) {
    // The next one.
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

  /** Repeats what lies `offset` bytes before; source and target may overlap. */
  #copy(offset: number, length: number): void {
    const out = this.#out;
    const to = this.#written;
    if (offset === 0 || offset > to || length > out.length - to) wrongPiece('an LZ4 match reaches outside');
    if (offset >= length && length > 32) out.copyWithin(to, to - offset, to - offset + length);
    else for (let at = to; at < to + length; at++) out[at] = out[at - offset] ?? 0;
    this.#written += length;
  }
}
