import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { ChunkIndex, MAX_INDEX_BYTES } from '@sitecast/shared/content';
import { readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { SlotName } from '../ports.ts';

/** The chunk index of what a slot holds: without it nobody could be given a chunk of it when no gateway answers. */
export class SlotIndexFile {
  readonly #path: string;

  constructor(directory: string, slot: SlotName) {
    this.#path = join(directory, `slot-${slot.toLowerCase()}.caibx`);
  }

  /** To be written before the slot's record says that it's verified: a cut between them leaves one that nobody names. */
  async write(bytes: Uint8Array): Promise<void> {
    await writeFileDurably(this.#path, bytes);
  }

  /** @param sha256 of the bytes, as the slot's record says. @returns undefined where they aren't there, or others are */
  async read(sha256: string): Promise<ChunkIndex | undefined> {
    try {
      const bytes = await readFileBounded(this.#path, MAX_INDEX_BYTES);
      if (createHash('sha256').update(bytes).digest('hex') !== sha256) return undefined;
      return ChunkIndex.decode(bytes);
    } catch (error) {
      // Not kept, as by an earlier version, or damaged; it's kept with the next update.
      if (isSystemError(error) || error instanceof SitecastError) return undefined;
      throw error;
    }
  }
}
