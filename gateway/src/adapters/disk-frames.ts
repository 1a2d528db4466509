import { type BigIntStats, closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { open, stat, statfs } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Chunk, type ChunkId, DirectoryStore, MAX_FRAME_BYTES } from '@sitecast/shared/content';
import { isSystemError } from '@sitecast/shared/errors';
import type { FrameFiles, StoredFrame } from '../chunks/disk-cache.ts';

const FILES_PER_TURN = 128;
/** A frame that fails every verification. */
const UNREADABLE: StoredFrame = { frame: Buffer.alloc(0), stamp: 'unreadable' };

/** The chunk cache's files, in the layout of a casync store. */
export class DiskFrames implements FrameFiles {
  readonly #store: DirectoryStore;

  private constructor(store: DirectoryStore) {
    this.#store = store;
  }

  static async open(directory: string): Promise<DiskFrames> {
    const store = await DirectoryStore.create(directory);
    await store.removePartials();
    return new DiskFrames(store);
  }

  async read(id: ChunkId): Promise<StoredFrame | undefined> {
    try {
      const file = await open(this.#store.pathOf(id), 'r');
      try {
        const found = await file.stat({ bigint: true });
        if (!found.isFile() || found.size > BigInt(MAX_FRAME_BYTES)) return UNREADABLE;
        const frame = Buffer.allocUnsafeSlow(Number(found.size));
        const { bytesRead } = await file.read(frame, 0, frame.length, 0);
        return bytesRead === frame.length ? { frame, stamp: stampOf(found) } : UNREADABLE;
      } finally {
        await file.close();
      }
    } catch (error) {
      return absentOrUnreadable(error);
    }
  }

  readNow(id: ChunkId): StoredFrame | undefined {
    try {
      const file = openSync(this.#store.pathOf(id), 'r');
      try {
        const found = fstatSync(file, { bigint: true });
        if (!found.isFile() || found.size > BigInt(MAX_FRAME_BYTES)) return UNREADABLE;
        const frame = Buffer.allocUnsafeSlow(Number(found.size));
        const bytesRead = readSync(file, frame, 0, frame.length, 0);
        return bytesRead === frame.length ? { frame, stamp: stampOf(found) } : UNREADABLE;
      } finally {
        closeSync(file);
      }
    } catch (error) {
      return absentOrUnreadable(error);
    }
  }

  async write(id: ChunkId, frame: Uint8Array): Promise<string | undefined> {
    const isNew = await this.#store.put(Chunk.fromFrame(id, frame));
    if (!isNew) return undefined;
    return stampOf(await stat(this.#store.pathOf(id), { bigint: true }));
  }

  async remove(id: ChunkId): Promise<void> {
    await this.#store.remove(id);
  }

  async *list(): AsyncGenerator<{ id: ChunkId; lengthBytes: number }> {
    let count = 0;
    for (const id of this.#store.ids()) {
      const found = statSync(this.#store.pathOf(id), { throwIfNoEntry: false });
      if (found) yield { id, lengthBytes: found.size };
      count += 1;
      if (count % FILES_PER_TURN === 0) await nextTurn();
    }
  }

  async freeBytes(): Promise<number> {
    const { bavail, bsize } = await statfs(this.#store.root);
    return bavail * bsize;
  }
}

// A file that the disk cannot read back is still there. It must be deleted, or the right one would never take its place.
function absentOrUnreadable(error: unknown): StoredFrame | undefined {
  if (isSystemError(error, 'ENOENT', 'ENOTDIR')) return undefined;
  if (isSystemError(error, 'EIO', 'EISDIR')) return UNREADABLE;
  throw error;
}

function stampOf({ ino, size, mtimeNs, ctimeNs }: BigIntStats): string {
  return `${ino}-${size}-${mtimeNs}-${ctimeNs}`;
}
