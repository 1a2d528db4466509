import { join } from 'node:path';
import { readFileBounded, removeDurably, removePartials, writeFileDurably } from '../durable/index.ts';
import { isSystemError, SitecastError } from '../errors.ts';
import type { MetadataStore } from './ports.ts';

/** Metadata in a directory of its own, one file per role. The directory must exist. One process at a time writes. */
export class DirectoryMetadataStore implements MetadataStore {
  readonly #directory: string;
  #isSwept = false;

  constructor(directory: string) {
    this.#directory = directory;
  }

  async read(name: string, maxBytes: number): Promise<Uint8Array | undefined> {
    try {
      return await readFileBounded(join(this.#directory, name), maxBytes);
    } catch (error) {
      // The file is missing, unreadable, or no file. The repository still has it.
      if (isSystemError(error, 'ENOENT', 'EIO', 'EISDIR')) return undefined;
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  async write(name: string, bytes: Uint8Array): Promise<void> {
    await this.#sweep();
    await writeFileDurably(join(this.#directory, name), bytes);
  }

  async remove(name: string): Promise<void> {
    await removeDurably(join(this.#directory, name));
  }

  /** Deletes what a power cut left of files that were being written. */
  async #sweep(): Promise<void> {
    if (this.#isSwept) return;
    this.#isSwept = true;
    await removePartials(this.#directory);
  }
}

/** Metadata in memory, for servers that store their own, and for tests. */
export class MemoryMetadataStore implements MetadataStore {
  readonly files = new Map<string, Uint8Array>();

  async read(name: string, maxBytes: number): Promise<Uint8Array | undefined> {
    const bytes = this.files.get(name);
    return bytes && bytes.length <= maxBytes ? bytes : undefined;
  }

  async write(name: string, bytes: Uint8Array): Promise<void> {
    this.files.set(name, bytes);
  }

  async remove(name: string): Promise<void> {
    this.files.delete(name);
  }
}
