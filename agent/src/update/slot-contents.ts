import type { ChunkIndex } from '@sitecast/shared/content';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { type Log, SLOT_NAMES, type SlotName } from '../ports.ts';
import type { DurableFiles } from '../state/durable-files.ts';
import { SlotIndexFile } from '../state/slot-index-file.ts';
import type { Spending } from '../state/spending.ts';
import type { StateFile } from '../state/state-file.ts';

/** Fetches indexes of listed releases. */
interface IndexSource {
  indexOf(
    counter: number,
    wanted: {
      sha256: string | undefined;
      worthBytes: number;
      payer: Pick<Spending, 'pay'>;
      signal: AbortSignal;
    },
  ): Promise<SlotContent | undefined>;
}

interface SlotContentsDependencies {
  /** The agent's own directory. */
  data: string;
  files: Pick<DurableFiles, 'replace'>;
  releases: IndexSource;
  stateFile: Pick<StateFile, 'current' | 'change'>;
  spending: Pick<Spending, 'pay' | 'leftBytes'>;
  log: Log;
}

/** The image that a slot should hold. Only reading shows whether it does. */
export interface SlotContent {
  index: ChunkIndex;
  /** Of the index's bytes, in hex. */
  indexSha256: string;
}

/** Stores the chunk indexes of the slots' images. No other place does, with or without peers. */
export class SlotContents {
  readonly #deps: SlotContentsDependencies;

  constructor(deps: SlotContentsDependencies) {
    this.#deps = deps;
  }

  /** Called when the slot was read back whole and holds this image. */
  async keep(name: SlotName, indexBytes: Uint8Array): Promise<void> {
    try {
      await this.#file(name).write(indexBytes);
    } catch (error) {
      // For example a full disk. The next update then fetches the index, and peers get the slot's chunks only until the next start.
      if (!(error instanceof SitecastError) && !isSystemError(error)) throw error;
    }
  }

  /** A stored index, of either slot. @returns undefined where none has that hash */
  async withHash(indexSha256: string): Promise<ChunkIndex | undefined> {
    for (const name of SLOT_NAMES) {
      const found = await this.#file(name).read(indexSha256);
      if (found) return found;
    }
    return undefined;
  }

  /** The image of the slot before the last writes to it. Only a hint. */
  last(name: SlotName): Promise<ChunkIndex | undefined> {
    return this.#file(name).readLast();
  }

  /**
   * The image of the running slot, from the device's own files. A device from the factory knows its release but not the index, which is
   * then fetched once, and stored.
   * @param worthBytes the index is fetched only if it is shorter
   * @returns undefined where it can't be known
   * @throws the reason of `signal`
   */
  async booted(
    name: SlotName,
    { worthBytes, signal }: { worthBytes: number; signal: AbortSignal },
  ): Promise<SlotContent | undefined> {
    const { release, indexSha256, baseIndexSha256, state } = this.#deps.stateFile.current.slots[name];
    if (state !== 'verified' && state !== 'altered') return undefined;
    const known = indexSha256 ?? baseIndexSha256;
    const kept = known === undefined ? undefined : await this.#file(name).read(known);
    if (known !== undefined && kept) return { index: kept, indexSha256: known };
    if (!release || release.counter < 1) return undefined;
    try {
      const { releases, spending } = this.#deps;
      const found = await releases.indexOf(release.counter, {
        sha256: known,
        worthBytes: Math.min(worthBytes, spending.leftBytes),
        payer: spending,
        signal,
      });
      if (found) await this.#note(name, found);
      return found;
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof SitecastError)) throw error;
      const { code, message } = error;
      this.#deps.log('info', `nothing is copied from slot ${name}, its index can't be had: ${message}`, {
        code,
      });
      return undefined;
    }
  }

  async #note(name: SlotName, { index, indexSha256 }: SlotContent): Promise<void> {
    await this.keep(name, index.encode());
    const { stateFile } = this.#deps;
    if (stateFile.current.slots[name].indexSha256 !== undefined) return;
    await stateFile.change(({ slots }) => ({
      slots: { ...slots, [name]: { ...slots[name], baseIndexSha256: indexSha256 } },
    }));
  }

  #file(name: SlotName): SlotIndexFile {
    return new SlotIndexFile(this.#deps.data, name, this.#deps.files);
  }
}
