import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

/** The shortest chunk length (except for a last chunk), so that each chunk is sampled. */
const STRIDE_BYTES = 16 * 1024;
const SAMPLE_BYTES = 64;

/** Looks at slots that are being filled with an image of random bytes. */
export class SpreadCopy {
  readonly #image: Buffer;
  readonly #slots: readonly string[];
  readonly #buffer: Buffer;

  constructor(image: string, slots: readonly string[]) {
    this.#image = readFileSync(image);
    this.#slots = slots;
    this.#buffer = Buffer.alloc(this.#image.length);
  }

  /** Whether the slots hold half of the image on average, and at least one holds each part of it. */
  isHalfWithAWhole(): boolean {
    const samples = this.#samples();
    const held = new Uint8Array(samples.length);
    let all = 0;
    for (const slot of this.#slots) {
      const lengthBytes = this.#read(slot);
      for (const [number, at] of samples.entries()) {
        if (at + SAMPLE_BYTES > lengthBytes || !this.#isRight(at)) continue;
        held[number] = 1;
        all += 1;
      }
    }
    return all * 2 >= samples.length * this.#slots.length && held.every(one => one === 1);
  }

  #samples(): number[] {
    const count = Math.ceil(this.#image.length / STRIDE_BYTES);
    const regular = Array.from({ length: count }, (_, at) => at * STRIDE_BYTES);
    return [...regular, this.#image.length - SAMPLE_BYTES];
  }

  #isRight(at: number): boolean {
    return this.#image.compare(this.#buffer, at, at + SAMPLE_BYTES, at, at + SAMPLE_BYTES) === 0;
  }

  #read(slot: string): number {
    const file = openSync(slot, 'r');
    try {
      return readSync(file, this.#buffer, 0, this.#buffer.length, 0);
    } finally {
      closeSync(file);
    }
  }
}
