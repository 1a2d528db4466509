import type { FoundFile } from './files.ts';

/**
 * The data directory for a thread of its own that may wait for the disk. Handing each of several small steps a chunk
 * to node's thread pool costs many times what the steps do.
 *
 * Paths and errors are those of `Files`.
 */
export interface SyncFiles {
  read(path: string, maxBytes: number): Buffer | undefined;
  lengthOf(path: string): number | undefined;
  list(path: string): Iterable<FoundFile>;
  makeDirectory(path: string): void;
  /** Replaces what is there; not atomic, not durable. After an error nothing is left of it. */
  write(path: string, bytes: Uint8Array): void;
  move(from: string, to: string): void;
  remove(path: string): void;
}
