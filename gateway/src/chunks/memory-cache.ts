import { LRUCache } from 'lru-cache';

/** What a frame costs besides its bytes, about. */
const ENTRY_BYTES = 256;

/** Frames in memory, verified: devices that update at the same time ask for the same ones. */
export class FrameMemory {
  readonly #frames: LRUCache<string, Buffer>;

  constructor(maxBytes: number) {
    this.#frames = new LRUCache({
      // At 1 no frame fits: none is kept.
      maxSize: Math.max(1, maxBytes),
      sizeCalculation: frame => frame.length + ENTRY_BYTES,
    });
  }

  get(hex: string): Buffer | undefined {
    return this.#frames.get(hex);
  }

  set(hex: string, frame: Buffer): void {
    this.#frames.set(hex, frame);
  }
}
