/** Writes into memory of a fixed length. Bytes that don't fit are counted, but not written. */
export class PieceOutput {
  readonly #into: Uint8Array;
  #length = 0;

  constructor(into: Uint8Array) {
    this.#into = into;
  }

  /** How many bytes were added, whether they fitted or not. */
  get length(): number {
    return this.#length;
  }

  add(bytes: Uint8Array): void {
    const room = this.#into.length - this.#length;
    if (room > 0) this.#into.set(bytes.length > room ? bytes.subarray(0, room) : bytes, this.#length);
    this.#length += bytes.length;
  }
}
