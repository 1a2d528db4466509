import type { ChunkIndex } from '@sitecast/shared/content';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { type Log, SLOT_NAMES, type SlotName } from '../ports.ts';
import type { DurableFiles } from '../state/durable-files.ts';
import { SlotIndexFile } from '../state/slot-index-file.ts';
import type { Spending } from '../state/spending.ts';
import type { StateFile } from '../state/state-file.ts';

/** Gets indexes of releases that are listed. */
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

/** The image that a slot is supposed to hold. Only reading shows whether it does. */
export interface SlotContent {
  index: ChunkIndex;
  /** Of the index's bytes, in hex. */
  indexSha256: string;
}

/** The chunk indexes of what the slots hold: the one place that keeps them, with peers and without. */
export class SlotContents {
  readonly #deps: SlotContentsDependencies;

  constructor(deps: SlotContentsDependencies) {
    this.#deps = deps;
  }

  /** The slot was read back whole, and holds this image. */
  async keep(name: SlotName, indexBytes: Uint8Array): Promise<void> {
    try {
      await this.#file(name).write(indexBytes);
    } catch (error) {
      // A full disk, say: the next update fetches the index, and the slot is handed out until the next start only.
      if (!(error instanceof SitecastError) && !isSystemError(error)) throw error;
    }
  }

  /** An index that is kept here, of either slot. @returns undefined where none has that hash */
  async withHash(indexSha256: string): Promise<ChunkIndex | undefined> {
    for (const name of SLOT_NAMES) {
      const found = await this.#file(name).read(indexSha256);
      if (found) return found;
    }
    return undefined;
  }

  /** What the slot held before it was written to last. It is only a hint. */
  last(name: SlotName): Promise<ChunkIndex | undefined> {
    return this.#file(name).readLast();
  }

  /**
   * The image of the slot that runs, from the device's own files. A device from the factory knows its release and not the index: that
   * is fetched once, and kept.
   * @param worthBytes an index that isn't shorter is not fetched
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
