import { type ErrorCode, SitecastError } from '../errors.ts';

/** The longest varint: 8 groups of 7 bits hold all of 2^53. */
const MAX_VARINT_BYTES = 8;

const FIRST_BYTES = 1024;

/**
 * Reads little-endian base-128 numbers (LEB128), bytes and short text in order. Every number has exactly one valid encoding: a longer one
 * is refused, as is a number over 2^53 - 1.
 */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #what: string;
  readonly #codes: { readonly truncated: ErrorCode; readonly invalid: ErrorCode };
  #at = 0;

  /** @param codes of the errors: `truncated` where bytes are missing, `invalid` for an impossible value */
  constructor(
    bytes: Uint8Array,
    what: string,
    codes: { readonly truncated: ErrorCode; readonly invalid: ErrorCode },
  ) {
    this.#bytes = bytes;
    this.#what = what;
    this.#codes = codes;
  }

  /** How many bytes are left. */
  get left(): number {
    return this.#bytes.length - this.#at;
  }

  byte(): number {
    const value = this.#bytes[this.#at];
    if (value === undefined) throw this.#truncated();
    this.#at += 1;
    return value;
  }

  /** A whole number from 0 to `max`. */
  uint(name: string, max = Number.MAX_SAFE_INTEGER): number {
    let value = 0;
    let factor = 1;
    for (let count = 1; ; count += 1) {
      const group = this.byte();
      value += (group & 0x7f) * factor;
      if (group < 0x80) {
        if (group === 0 && count > 1) throw this.invalid(`${name} isn't written in its shortest form`);
        if (value > max) throw this.invalid(`${name} is ${value}, at most ${max}`);
        return value;
      }
      if (count === MAX_VARINT_BYTES) throw this.invalid(`${name} is over 2^53 - 1`);
      factor *= 128;
    }
  }

  /** A whole number from `-max` to `max`, zigzag-coded: 0, -1, 1, -2, … */
  int(name: string, max = 2 ** 51): number {
    const coded = this.uint(name, max * 2);
    return coded % 2 === 0 ? coded / 2 : -(coded + 1) / 2;
  }

  /** The next bytes: a view. */
  take(lengthBytes: number): Uint8Array {
    if (lengthBytes > this.left) throw this.#truncated();
    this.#at += lengthBytes;
    return this.#bytes.subarray(this.#at - lengthBytes, this.#at);
  }

  /** Text with its length before it: printable ASCII without spaces. */
  text(name: string, maxChars: number): string {
    const text = Buffer.from(this.take(this.uint(`the length of ${name}`, maxChars))).toString('latin1');
    if (!/^[\x21-\x7e]+$/.test(text)) throw this.invalid(`${name} isn't printable text`);
    return text;
  }

  /** Checks that nothing follows. */
  end(): void {
    if (this.left > 0) throw this.invalid(`${this.left} bytes follow its end`);
  }

  invalid(what: string): SitecastError {
    return new SitecastError('badInput', this.#codes.invalid, `not a usable ${this.#what}: ${what}`);
  }

  #truncated(): SitecastError {
    return new SitecastError('badInput', this.#codes.truncated, `not a usable ${this.#what}: it is cut off`);
  }
}

/** Writes what `ByteReader` reads. */
export class ByteWriter {
  #bytes = Buffer.allocUnsafe(FIRST_BYTES);
  #used = 0;

  get lengthBytes(): number {
    return this.#used;
  }

  byte(value: number): void {
    this.#reserve(1);
    this.#bytes[this.#used] = value;
    this.#used += 1;
  }

  uint(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0)
      throw new RangeError(`${value} isn't a whole number from 0`);
    this.#reserve(MAX_VARINT_BYTES);
    let rest = value;
    while (rest >= 128) {
      this.#bytes[this.#used] = (rest % 128) | 0x80;
      this.#used += 1;
      rest = Math.floor(rest / 128);
    }
    this.#bytes[this.#used] = rest;
    this.#used += 1;
  }

  int(value: number): void {
    this.uint(value < 0 ? -value * 2 - 1 : value * 2);
  }

  add(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#used);
    this.#used += bytes.length;
  }

  text(text: string): void {
    const bytes = Buffer.from(text, 'latin1');
    this.uint(bytes.length);
    this.add(bytes);
  }

  /** All bytes that were written: a view. */
  finish(): Buffer {
    return this.#bytes.subarray(0, this.#used);
  }

  #reserve(lengthBytes: number): void {
    if (this.#used + lengthBytes <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, this.#used + lengthBytes));
    larger.set(this.finish());
    this.#bytes = larger;
  }
}
