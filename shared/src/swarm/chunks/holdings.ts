import { type ChunkId, chunkIdToHex } from '../../content/index.ts';
import { MAX_BITFIELD_BYTES } from './wire.ts';

const BITS = 8;

/** A flag for each chunk of an image, by its number in the index. */
export class Bitfield {
  readonly count: number;
  readonly #bits: Uint8Array;
  #size = 0;

  constructor(count: number) {
    this.count = count;
    this.#bits = new Uint8Array(Math.ceil(count / BITS));
  }

  /** How many flags are set. */
  get size(): number {
    return this.#size;
  }

  has(at: number): boolean {
    return ((this.#bits[at >>> 3] ?? 0) & (0x80 >>> (at & 7))) !== 0;
  }

  /** @returns false if it was set already, or there's no such chunk */
  add(at: number): boolean {
    if (at < 0 || at >= this.count || this.has(at)) return false;
    this.#bits[at >>> 3] = (this.#bits[at >>> 3] ?? 0) | (0x80 >>> (at & 7));
    this.#size += 1;
    return true;
  }

  remove(at: number): void {
    if (!this.has(at)) return;
    this.#bits[at >>> 3] = (this.#bits[at >>> 3] ?? 0) & ~(0x80 >>> (at & 7));
    this.#size -= 1;
  }

  /** The flags in pieces of a message's length, as a copy; pieces without a set flag are left out. */
  *pieces(): Generator<{ first: number; bits: Uint8Array }> {
    for (let at = 0; at < this.#bits.length; at += MAX_BITFIELD_BYTES) {
      const bits = Uint8Array.from(this.#bits.subarray(at, at + MAX_BITFIELD_BYTES));
      if (bits.some(byte => byte !== 0)) yield { first: at * BITS, bits };
    }
  }
}

/** The numbers of the set bits of a piece. */
export function* setBits(first: number, bits: Uint8Array): Generator<number> {
  for (const [at, byte] of bits.entries()) {
    if (byte === 0) continue;
    for (let bit = 0; bit < BITS; bit += 1) if ((byte & (0x80 >>> bit)) !== 0) yield first + at * BITS + bit;
  }
}

/** The chunks of one image that this machine serves. Subscribed peers are told of each new one. */
export class ImageHoldings {
  /** SHA-256 of the image's chunk index. */
  readonly image: ChunkId;
  readonly bits: Bitfield;
  readonly #log: Uint32Array;
  #isFetching: boolean;
  onChange: () => void = () => {};

  constructor(image: ChunkId, count: number, isFetching: boolean) {
    this.image = Uint8Array.from(image);
    this.bits = new Bitfield(count);
    this.#log = new Uint32Array(count);
    this.#isFetching = isFetching;
  }

  /** Whether this machine still fetches chunks of the image. If so, peers leave it its share of the chunks that only a gateway has. */
  get isFetching(): boolean {
    return this.#isFetching;
  }
  set isFetching(isFetching: boolean) {
    this.#isFetching = isFetching;
    this.onChange();
  }

  /** Adds a verified chunk. */
  add(at: number): void {
    const before = this.bits.size;
    if (!this.bits.add(at)) return;
    this.#log[before] = at;
    this.onChange();
  }

  /** Chunks that were added after the first `known` ones, at most `max`. */
  addedAfter(known: number, max: number): readonly number[] {
    return [...this.#log.subarray(known, Math.min(this.bits.size, known + max))];
  }
}

/** The few images that this machine serves at the same time. */
export class HaveMap {
  readonly #images = new Map<string, ImageHoldings>();
  readonly #listeners = new Set<() => void>();

  put(holdings: ImageHoldings): void {
    holdings.onChange = () => this.#tell();
    this.#images.set(chunkIdToHex(holdings.image), holdings);
    this.#tell();
  }

  /** Stops serving the image. A peer that requests it nevertheless gets "missing". */
  remove(image: ChunkId): void {
    this.#images.delete(chunkIdToHex(image));
  }

  get(image: ChunkId): ImageHoldings | undefined {
    return this.#images.get(chunkIdToHex(image));
  }

  /** Number of listeners. */
  get listeners(): number {
    return this.#listeners.size;
  }

  /** @returns a function that stops listening */
  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }
}
