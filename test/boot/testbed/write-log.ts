import { closeSync, openSync, readSync } from 'node:fs';

/** The format of Linux' dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst), which QEMU's `blklogwrites` writes. */
const MAGIC = 0x6a736677736872n;
const HEADER_BYTES = 32;
const FLUSH = 1;
const FUA = 2;
const DISCARD = 4;

export interface LoggedWrite {
  at: number;
  bytes: Buffer;
  /** What was written before it is on the disk now, not in its cache. */
  isFlush: boolean;
  /** It went past the cache itself. */
  isThrough: boolean;
}

/** Reads all writes and flushes, in their order. Discarded blocks keep what they held. */
export function readWriteLog(path: string): LoggedWrite[] {
  const file = openSync(path, 'r');
  const read = (at: number, length: number): Buffer => {
    const bytes = Buffer.alloc(length);
    if (readSync(file, bytes, 0, length, at) !== length) throw new Error(`${path} ends early`);
    return bytes;
  };
  try {
    const head = read(0, HEADER_BYTES);
    if (head.readBigUInt64LE(0) !== MAGIC) throw new Error(`${path} is no log of writes`);
    const [count, sectorBytes] = [Number(head.readBigUInt64LE(16)), head.readUInt32LE(24)];
    const writes: LoggedWrite[] = [];
    let next = sectorBytes;
    for (let entry = 0; entry < count; entry += 1) {
      const header = read(next, HEADER_BYTES);
      const number = (offset: number): number => Number(header.readBigUInt64LE(offset));
      const at = number(0);
      const sectors = number(8);
      const flags = number(16);
      const length = flags & DISCARD ? 0 : sectors * sectorBytes;
      const bytes = read(next + sectorBytes, length);
      next += sectorBytes + length;
      writes.push({
        at: at * sectorBytes,
        bytes,
        isFlush: (flags & FLUSH) !== 0,
        isThrough: (flags & FUA) !== 0,
      });
    }
    return writes;
  } finally {
    closeSync(file);
  }
}

/**
 * What power cuts leave of a disk: all that was written before the last flush, and of what came after it some writes, and not others.
 * Cuts are to be asked for in the order of their moments.
 */
export class PowerCuts {
  readonly #disk: Buffer;
  readonly #writes: readonly LoggedWrite[];
  readonly #doesFlush: boolean;
  /** Writes that are on the disk for good. */
  #durable = 0;

  /**
   * @param disk as it was before; it is changed
   * @param doesFlush false: a disk that ignores flushes, and may lose each write
   */
  constructor(disk: Buffer, writes: readonly LoggedWrite[], { doesFlush = true } = {}) {
    this.#disk = disk;
    this.#writes = writes;
    this.#doesFlush = doesFlush;
  }

  /**
   * Lends the disk as a cut right after so many writes leaves it.
   * @param isKept asked for each write in the cache
   */
  lend<T>(moment: number, isKept: () => boolean, use: (disk: Buffer) => T): T {
    const flushed = this.#doesFlush
      ? this.#writes.slice(0, moment).findLastIndex(write => write.isFlush) + 1
      : 0;
    for (; this.#durable < flushed; this.#durable += 1) this.#apply(this.#writes[this.#durable]);
    const undone: { at: number; bytes: Buffer }[] = [];
    for (const write of this.#writes.slice(this.#durable, moment)) {
      const isThrough = write.isThrough && this.#doesFlush;
      if (!isThrough && !isKept()) continue;
      undone.push({
        at: write.at,
        bytes: Buffer.from(this.#disk.subarray(write.at, write.at + write.bytes.length)),
      });
      this.#apply(write);
    }
    try {
      return use(this.#disk);
    } finally {
      for (const before of undone.toReversed()) before.bytes.copy(this.#disk, before.at);
    }
  }

  #apply(write: LoggedWrite | undefined): void {
    write?.bytes.copy(this.#disk, write.at);
  }
}
