import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { ChunkIndex, MAX_INDEX_BYTES } from '@sitecast/shared/content';
import { readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { SlotName } from '../ports.ts';
import { type DurableFiles, durableFiles } from './durable-files.ts';

/**
 * The chunk index of a slot's image. It says where each chunk is, so that chunks can be copied to the other slot instead of fetched, and
 * served to peers while no gateway answers.
 */
export class SlotIndexFile {
  readonly #path: string;
  readonly #files: Pick<DurableFiles, 'replace'>;

  constructor(directory: string, slot: SlotName, files: Pick<DurableFiles, 'replace'> = durableFiles) {
    this.#path = join(directory, `slot-${slot.toLowerCase()}.caibx`);
    this.#files = files;
  }

  /** Written before the slot's record says that the slot is verified: a power cut between them leaves an index without a record. */
  async write(bytes: Uint8Array): Promise<void> {
    await this.#files.replace(this.#path, bytes);
  }

  /** @param sha256 of the bytes, by the slot's record. @returns undefined where the file holds another index, or is missing */
  read(sha256: string): Promise<ChunkIndex | undefined> {
    return this.#read(bytes => createHash('sha256').update(bytes).digest('hex') === sha256);
  }

  /**
   * The index of the slot's last image, whatever was written to the slot since: only a hint, so each chunk must be verified.
   * @returns undefined where there is none
   */
  readLast(): Promise<ChunkIndex | undefined> {
    return this.#read(() => true);
  }

  async #read(isWanted: (bytes: Uint8Array) => boolean): Promise<ChunkIndex | undefined> {
    try {
      const bytes = await readFileBounded(this.#path, MAX_INDEX_BYTES);
      return isWanted(bytes) ? ChunkIndex.decode(bytes) : undefined;
    } catch (error) {
      // An earlier version stored none, or it is damaged. The next update stores one.
      if (isSystemError(error) || error instanceof SitecastError) return undefined;
      throw error;
    }
  }
}
