import type { ChunkId } from '@sitecast/shared/content';

/** A frame as the disk gave it, and what tells that its file is still the same. */
export interface StoredFrame {
  frame: Buffer;
  /** Inode, length and time of change. */
  stamp: string;
}

/** The files of the chunk cache. Nothing read from them is trusted. Errors: SITECAST_NO_SPACE for a full disk. */
export interface FrameFiles {
  /** Undefined if it isn't here; an empty frame for a file that can't be read, or is no frame's. */
  read(id: ChunkId): Promise<StoredFrame | undefined>;
  /** As `read`, without a turn of the event loop: for a file that was read before, so that its bytes are in memory. */
  readNow(id: ChunkId): StoredFrame | undefined;
  /** @returns the file's stamp */
  write(id: ChunkId, frame: Uint8Array): Promise<string>;
  remove(id: ChunkId): Promise<void>;
  /** All that are here, with their lengths; files that vanish meanwhile are passed over. */
  list(): AsyncIterable<{ id: ChunkId; lengthBytes: number }>;
  /** Free bytes of the file system, for this user. */
  freeBytes(): Promise<number>;
}
