const FIRST_BYTES = 64 * 1024;

/** Bits, the most significant one first. */
export class BitWriter {
  #bytes = Buffer.allocUnsafe(FIRST_BYTES);
  #used = 0;
  #pending = 0;
  #pendingBits = 0;

  /** @param count at most 24 */
  bits(value: number, count: number): void {
    this.#pending = (this.#pending << count) | value;
    this.#pendingBits += count;
    while (this.#pendingBits >= 8) {
      this.#pendingBits -= 8;
      this.#byte((this.#pending >>> this.#pendingBits) & 0xff);
    }
    this.#pending &= (1 << this.#pendingBits) - 1;
  }

  bits32(value: number): void {
    this.bits(value >>> 16, 16);
    this.bits(value & 0xffff, 16);
  }

  bytes(bytes: Uint8Array): void {
    for (const byte of bytes) this.bits(byte, 8);
  }

  /** All bits, filled up with zeros to a whole byte. */
  finish(): Buffer {
    if (this.#pendingBits > 0) this.bits(0, 8 - this.#pendingBits);
    return this.#bytes.subarray(0, this.#used);
  }

  #byte(byte: number): void {
    if (this.#used === this.#bytes.length) {
      const larger = Buffer.allocUnsafe(this.#bytes.length * 2);
      this.#bytes.copy(larger);
      this.#bytes = larger;
    }
    this.#bytes[this.#used++] = byte;
  }
}
