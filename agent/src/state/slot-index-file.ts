import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { ChunkIndex, MAX_INDEX_BYTES } from '@sitecast/shared/content';
import { readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { SlotName } from '../ports.ts';

/** The chunk index of a slot's image: with it chunks can be handed out while no gateway answers. */
export class SlotIndexFile {
  readonly #path: string;

  constructor(directory: string, slot: SlotName) {
    this.#path = join(directory, `slot-${slot.toLowerCase()}.caibx`);
  }

  /** Written before the slot's record says that the slot is verified: a power cut between them leaves an index without a record. */
  async write(bytes: Uint8Array): Promise<void> {
    await writeFileDurably(this.#path, bytes);
  }

  /** @param sha256 of the bytes, by the slot's record. @returns undefined where another index, or none, is there */
  async read(sha256: string): Promise<ChunkIndex | undefined> {
    try {
      const bytes = await readFileBounded(this.#path, MAX_INDEX_BYTES);
      if (createHash('sha256').update(bytes).digest('hex') !== sha256) return undefined;
      return ChunkIndex.decode(bytes);
    } catch (error) {
      // An earlier version kept none, or it is damaged. The next update keeps one.
      if (isSystemError(error) || error instanceof SitecastError) return undefined;
      throw error;
    }
  }
}
