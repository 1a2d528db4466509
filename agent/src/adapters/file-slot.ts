import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { syncDirectory } from '@sitecast/shared/durable';
import { isSystemError } from '@sitecast/shared/errors';
import type { SlotPlace } from '../state/agent-state.ts';
import type { Slot, SlotReader, SlotWriter } from '../ports.ts';
import { busySlot, missingSlot, slotError } from './slot-errors.ts';
import type { SlotLocks } from './slot-locks.ts';
import { useOf } from './slot-use.ts';
import { findSlot, findSlots, locateSlot, refuseUnsafe } from './slot-checks.ts';

/** How many bytes are read at once: a multiple of every sector size. */
const BLOCK_BYTES = 1024 * 1024;
const LOOK_BYTES = 512;
/** Blocks of this length are not written if they are zeros and the slot reads zeros there: file systems and flash allocate in such blocks. */
const HOLE_BYTES = 4096;
const ZEROS = Buffer.alloc(BLOCK_BYTES);
/** The coarsest alignment that any file system or device needs. */
const MAX_ALIGNMENT_BYTES = 4096;
const ALIGNMENT_STEP_BYTES = 16;

export interface FileSlotOptions {
  /** Capacity of a slot that is a file. */
  maxBytes?: number | undefined;
  /** Path of the other slot, which this one must not touch. */
  other?: string | undefined;
  /** The agent's own directory. */
  data?: string | undefined;
  /** The locks of this agent's process; undefined: there are no other agents. */
  locks?: SlotLocks | undefined;
}

/**
 * A slot that is a file or a block device. A file grows while it is written, and ends where the image ends; `maxBytes` bounds it, like a
 * partition. A new file is executable, since a slot's image may be a program.
 */
export class FileSlot implements Slot {
  readonly path: string;
  readonly #options: FileSlotOptions;

  constructor(path: string, options: FileSlotOptions = {}) {
    this.path = path;
    this.#options = options;
  }

  async locate(remembered: SlotPlace | undefined): Promise<SlotPlace> {
    return locateSlot(this.path, remembered, this.#options.data);
  }

  async look(remembered: SlotPlace | undefined, { isBooted }: { isBooted: boolean }): Promise<void> {
    await this.locate(remembered);
    const found = await findSlot(this.path);
    if (!found) return;
    await this.#options.locks?.take([{ path: this.path, found }]);
    const use = isBooted ? undefined : await useOf(this.path, found);
    if (use !== undefined) throw busySlot(this.path, use);
    const handle = await this.#open(constants.O_RDONLY);
    try {
      await handle.read(Buffer.alloc(LOOK_BYTES), 0, LOOK_BYTES, 0);
    } catch (error) {
      throw slotError(this.path, 'read', error);
    } finally {
      await handle.close();
    }
  }

  async capacityBytes(): Promise<number | undefined> {
    const found = await findSlot(this.path);
    if (!found?.isBlockDevice()) return this.#options.maxBytes;
    const handle = await this.#open(constants.O_RDONLY);
    try {
      const lengthBytes = await deviceBytes(handle);
      if (lengthBytes > 0) return lengthBytes;
      throw missingSlot(this.path, 'is a device without a medium, or one that is not attached');
    } catch (error) {
      throw slotError(this.path, 'read', error);
    } finally {
      await handle.close();
    }
  }

  async openForReading(): Promise<SlotReader | undefined> {
    if (!(await findSlot(this.path))) return undefined;
    return new BlockReader(this.path, await this.#open(constants.O_RDONLY), false);
  }

  async openForReadBack(): Promise<SlotReader> {
    if (!(await findSlot(this.path))) throw missingSlot(this.path, 'is not there');
    try {
      // tmpfs and some other file systems don't support direct reads.
      const handle = await open(this.path, constants.O_RDONLY | constants.O_DIRECT);
      return new BlockReader(this.path, handle, true);
    } catch (error) {
      if (!isSystemError(error, 'EINVAL')) throw slotError(this.path, 'open', error);
    }
    return new BlockReader(this.path, await this.#open(constants.O_RDONLY), false);
  }

  async openForWriting(): Promise<SlotWriter> {
    const { other, locks } = this.#options;
    const { isThere } = await this.locate(undefined);
    // Checked before a file is created, and again below on the opened file, since the path may lead elsewhere meanwhile.
    await locks?.take(await findSlots([this.path, ...(other === undefined ? [] : [other])]));
    // On a block device, O_EXCL fails while it is mounted or claimed. It has no effect on existing files.
    const create = isThere ? 0 : constants.O_CREAT;
    const handle = await this.#open(constants.O_RDWR | constants.O_EXCL | create);
    try {
      if (!isThere) await syncDirectory(dirname(this.path));
      const found = await handle.stat({ bigint: true });
      await refuseUnsafe(this.path, found, other);
      await locks?.take([{ path: this.path, found }]);
      return new FileWriter(this.path, handle, found.isBlockDevice());
    } catch (error) {
      await handle.close();
      throw slotError(this.path, 'open', error);
    }
  }

  async #open(flags: number): Promise<FileHandle> {
    try {
      return await open(this.path, flags, 0o755);
    } catch (error) {
      const use = isSystemError(error, 'EBUSY') ? await this.#use() : undefined;
      throw use === undefined ? slotError(this.path, 'open', error) : busySlot(this.path, use);
    }
  }

  async #use(): Promise<string | undefined> {
    const found = await findSlot(this.path);
    return found && useOf(this.path, found);
  }
}

class FileWriter implements SlotWriter {
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly #isDevice: boolean;

  constructor(path: string, handle: FileHandle, isDevice: boolean) {
    this.#path = path;
    this.#handle = handle;
    this.#isDevice = isDevice;
  }

  async write(bytes: Uint8Array, offset: number): Promise<void> {
    try {
      let at = 0;
      for (const { start, end } of zeroRuns(bytes, offset)) {
        if (!(await this.#readsZero(offset + start, end - start))) continue;
        await this.#writeAll(bytes.subarray(at, start), offset + at);
        at = end;
      }
      await this.#writeAll(bytes.subarray(at), offset + at);
    } catch (error) {
      throw slotError(this.#path, 'write', error);
    }
  }

  async #writeAll(bytes: Uint8Array, offset: number): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const { bytesWritten } = await this.#handle.write(bytes, at, bytes.length - at, offset + at);
      at += bytesWritten;
    }
  }

  /** Whether the range reads as zeros. Beyond the end of a file it does, once `finish` has made the file longer. */
  async #readsZero(offset: number, lengthBytes: number): Promise<boolean> {
    const piece = Buffer.allocUnsafe(Math.min(lengthBytes, ZEROS.length));
    for (let at = 0; at < lengthBytes; ) {
      const wanted = Math.min(piece.length, lengthBytes - at);
      const { bytesRead } = await this.#handle.read(piece, 0, wanted, offset + at);
      if (bytesRead === 0) return !this.#isDevice;
      if (!isZero(piece.subarray(0, bytesRead))) return false;
      at += bytesRead;
    }
    return true;
  }

  async extend(lengthBytes: number): Promise<number> {
    if (this.#isDevice) return Number.POSITIVE_INFINITY;
    try {
      const { size } = await this.#handle.stat();
      if (size < lengthBytes) await this.#handle.truncate(lengthBytes);
      return size;
    } catch (error) {
      throw slotError(this.#path, 'extend', error);
    }
  }

  async finish(lengthBytes: number): Promise<void> {
    try {
      if (!this.#isDevice) await this.#handle.truncate(lengthBytes);
      await this.#handle.sync();
    } catch (error) {
      throw slotError(this.#path, 'fsync', error);
    }
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

/** Runs of zeros, in blocks aligned to the slot: from `start` to `end` of `bytes`, which are at `offset`. */
function* zeroRuns(bytes: Uint8Array, offset: number): Generator<{ start: number; end: number }> {
  const first = (HOLE_BYTES - (offset % HOLE_BYTES)) % HOLE_BYTES;
  let start: number | undefined;
  for (let at = first; ; at += HOLE_BYTES) {
    const isWhole = at + HOLE_BYTES <= bytes.length;
    if (isWhole && isZero(bytes.subarray(at, at + HOLE_BYTES))) start ??= at;
    else if (start !== undefined) {
      yield { start, end: at };
      start = undefined;
    }
    if (!isWhole) return;
  }
}

/** @param bytes no longer than ZEROS */
function isZero(bytes: Uint8Array): boolean {
  return ZEROS.compare(bytes, 0, bytes.length, 0, bytes.length) === 0;
}

/** Reads whole aligned blocks into one buffer, and returns pieces of it. */
class BlockReader implements SlotReader {
  readonly isDirect: boolean;
  readonly #path: string;
  readonly #handle: FileHandle;
  #block: Buffer | undefined;
  #blockAt = -1;
  #blockBytes = 0;

  constructor(path: string, handle: FileHandle, isDirect: boolean) {
    this.#path = path;
    this.#handle = handle;
    this.isDirect = isDirect;
  }

  async read(offset: number, lengthBytes: number, consume: (piece: Uint8Array) => void): Promise<boolean> {
    const end = offset + lengthBytes;
    for (let at = offset; at < end; ) {
      const blockAt = at - (at % BLOCK_BYTES);
      const block = await this.#load(blockAt);
      const from = at - blockAt;
      const to = Math.min(end - blockAt, this.#blockBytes);
      if (to <= from) return false;
      consume(block.subarray(from, to));
      at = blockAt + to;
    }
    return true;
  }

  async readInto(offset: number, into: Uint8Array): Promise<boolean> {
    try {
      for (let filled = 0; filled < into.length; ) {
        const left = into.length - filled;
        const { bytesRead } = await this.#handle.read(into, filled, left, offset + filled);
        if (bytesRead === 0) return false;
        filled += bytesRead;
      }
      return true;
    } catch (error) {
      throw slotError(this.#path, 'read', error);
    }
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async #load(blockAt: number): Promise<Buffer> {
    try {
      this.#block ??= this.isDirect ? await alignedBlock(this.#handle) : Buffer.allocUnsafeSlow(BLOCK_BYTES);
      if (this.#blockAt === blockAt) return this.#block;
      this.#blockAt = -1;
      this.#blockBytes = await fill(this.#handle, this.#block, blockAt);
      this.#blockAt = blockAt;
      return this.#block;
    } catch (error) {
      throw slotError(this.#path, 'read', error);
    }
  }
}

async function fill(handle: FileHandle, block: Buffer, offset: number): Promise<number> {
  let filled = 0;
  while (filled < block.length) {
    const { bytesRead } = await handle.read(block, filled, block.length - filled, offset + filled);
    filled += bytesRead;
    // A direct read that ends within a sector has reached the end of the file. Another one would be misaligned.
    if (bytesRead === 0 || filled % 512 !== 0) break;
  }
  return filled;
}

/**
 * Memory for direct reads. It must be aligned, but JavaScript doesn't show memory addresses. So reads are tried at each possible place
 * until the kernel accepts one.
 */
async function alignedBlock(handle: FileHandle): Promise<Buffer> {
  const memory = Buffer.allocUnsafeSlow(BLOCK_BYTES + MAX_ALIGNMENT_BYTES);
  for (let start = 0; start < MAX_ALIGNMENT_BYTES; start += ALIGNMENT_STEP_BYTES) {
    const block = memory.subarray(start, start + BLOCK_BYTES);
    try {
      await handle.read(block, 0, block.length, 0);
      return block;
    } catch (error) {
      if (!isSystemError(error, 'EINVAL')) throw error;
    }
  }
  throw new Error('no place in memory suits direct reading');
}

/** A block device's size: the end of the last readable byte. */
async function deviceBytes(handle: FileHandle): Promise<number> {
  const probe = Buffer.alloc(1);
  const canRead = async (at: number) => (await handle.read(probe, 0, 1, at)).bytesRead === 1;
  let low = 0;
  let high = 2 ** 44;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (await canRead(middle)) low = middle + 1;
    else high = middle;
  }
  return low;
}
