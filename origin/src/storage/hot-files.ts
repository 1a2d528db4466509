import type { OpenFile, ReadableFiles } from './files.ts';

/** How much of what was read last stays in memory. */
export const MAX_HOT_BYTES = 64 * 1024 * 1024;
/** A longer file would push out too many others. */
const MAX_HOT_FILE_BYTES = 2 * 1024 * 1024;
/** Published files don't change, but one that the disk has spoilt is replaced by a right one: it must be seen some day. */
const HOT_MS = 10 * 60_000;

interface HotFile {
  bytes: Buffer<ArrayBuffer>;
  modifiedMs: number;
  stamp: string;
  readAtMs: number;
}

/**
 * Keeps published files in memory for a while: when a rollout begins, the gateways of many sites ask for the same chunks
 * within minutes, and opening, reading and allocating costs several times what sending does.
 */
export class HotFiles implements ReadableFiles {
  readonly #inner: ReadableFiles;
  readonly #now: () => number;
  /** In the order of their last use. */
  readonly #hot = new Map<string, HotFile>();
  #usedBytes = 0;

  constructor(inner: ReadableFiles, now: () => number) {
    this.#inner = inner;
    this.#now = now;
  }

  async open(path: string): Promise<OpenFile | undefined> {
    const hot = this.#hot.get(path);
    if (hot && Math.abs(this.#now() - hot.readAtMs) < HOT_MS) {
      this.#hot.delete(path);
      this.#hot.set(path, hot);
      return fromMemory(hot);
    }
    this.#drop(path);
    const file = await this.#inner.open(path);
    if (!file || file.lengthBytes > MAX_HOT_FILE_BYTES) return file;
    return {
      ...file,
      read: async (start, lengthBytes) => {
        const bytes = await file.read(start, lengthBytes);
        if (bytes.length === file.lengthBytes) this.#keep(path, bytes, file);
        return bytes;
      },
    };
  }

  #keep(path: string, bytes: Buffer<ArrayBuffer>, { modifiedMs, stamp }: OpenFile): void {
    this.#drop(path);
    this.#hot.set(path, { bytes, modifiedMs, stamp, readAtMs: this.#now() });
    this.#usedBytes += bytes.length;
    for (const oldest of this.#hot.keys()) {
      if (this.#usedBytes <= MAX_HOT_BYTES) break;
      this.#drop(oldest);
    }
  }

  #drop(path: string): void {
    const hot = this.#hot.get(path);
    if (!hot) return;
    this.#hot.delete(path);
    this.#usedBytes -= hot.bytes.length;
  }
}

function fromMemory({ bytes, modifiedMs, stamp }: HotFile): OpenFile {
  const part = (start: number, lengthBytes: number) => bytes.subarray(start, start + lengthBytes);
  return {
    lengthBytes: bytes.length,
    modifiedMs,
    stamp,
    close: () => {},
    read: async (start, lengthBytes) => part(start, lengthBytes),
    stream: (start, lengthBytes) =>
      new ReadableStream({
        start(controller) {
          controller.enqueue(part(start, lengthBytes));
          controller.close();
        },
      }),
  };
}
