import {
  Chunk,
  type ChunkId,
  type ChunkIndex,
  type ChunkRequest,
  type ChunkStore,
  chunkNotFound,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import type { SlotRecord } from '../state/agent-state.ts';
import {
  type HeldImage,
  type SiteImage,
  type SitePeers,
  type Slot,
  SLOT_NAMES,
  type SlotName,
  type SlotReader,
} from '../ports.ts';
import { SlotIndexFile } from '../state/slot-index-file.ts';

interface Shared {
  image: SiteImage;
  held: HeldImage;
  reader: SlotReader;
}

/** Serves the chunks of the slots to peers: one image per slot, complete or still being written. */
export class SharedSlots {
  readonly #peers: SitePeers;
  readonly #slots: Readonly<Record<SlotName, Slot>>;
  readonly #directory: string;
  readonly #shared = new Map<SlotName, Shared>();

  constructor(options: { peers: SitePeers; slots: Readonly<Record<SlotName, Slot>>; directory: string }) {
    this.#peers = options.peers;
    this.#slots = options.slots;
    this.#directory = options.directory;
  }

  /** At the start: serves each image that was verified once. Later changes are noticed when a chunk is read. */
  async restore(records: Readonly<Record<SlotName, SlotRecord>>): Promise<void> {
    for (const name of SLOT_NAMES) {
      const { state, indexSha256 } = records[name];
      if (indexSha256 === undefined || (state !== 'verified' && state !== 'altered')) continue;
      const index = await new SlotIndexFile(this.#directory, name).read(indexSha256);
      if (!index) continue;
      const image = { id: Buffer.from(indexSha256, 'hex'), index };
      const held = await this.begin(name, image, () => true);
      held?.settle();
    }
  }

  /**
   * Serves this image from the slot.
   * @param isHere whether the chunk with this number is in its place already
   * @returns undefined where the slot can't be read: then none of its chunks are served
   */
  async begin(
    name: SlotName,
    image: SiteImage,
    isHere: (at: number) => boolean,
  ): Promise<HeldImage | undefined> {
    await this.end(name);
    const reader = await readerOf(this.#slots[name]);
    if (!reader) return undefined;
    const held = this.#peers.hold(image, new SlotChunks(`slot ${name}`, image.index, reader));
    for (let at = 0; at < image.index.count; at += 1) if (isHere(at)) held.add(at);
    this.#shared.set(name, { image, held, reader });
    return held;
  }

  /** For each image: SHA-256 of its chunk index, in hex, and how many of its chunks are here. */
  get holdings(): { image: string; count: number }[] {
    return [...this.#shared.values()].map(({ image, held }) => ({
      image: Buffer.from(image.id).toString('hex'),
      count: held.count,
    }));
  }

  /** Called when the slot is right and nothing more is fetched. */
  settle(name: SlotName): void {
    this.#shared.get(name)?.held.settle();
  }

  /** Called before something else is written to the slot. */
  async end(name: SlotName): Promise<void> {
    const shared = this.#shared.get(name);
    if (!shared) return;
    this.#shared.delete(name);
    shared.held.end();
    await shared.reader.close();
  }

  async close(): Promise<void> {
    for (const name of SLOT_NAMES) await this.end(name);
  }
}

async function readerOf(slot: Slot): Promise<SlotReader | undefined> {
  try {
    return await slot.openForReading();
  } catch (error) {
    // For example a device node that isn't there yet. The next update gets the same error, and reports it.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

/** The chunks of an image, read from their places in a slot, and verified before they are returned. */
export class SlotChunks implements ChunkStore {
  readonly name: string;
  readonly #index: ChunkIndex;
  readonly #reader: SlotReader;

  /** @param reader the caller closes it once the store isn't used any more */
  constructor(name: string, index: ChunkIndex, reader: SlotReader) {
    this.name = name;
    this.#index = index;
    this.#reader = reader;
  }

  /** Whether the image has the chunk. Only reading shows whether the slot has it. */
  async has(id: ChunkId, { signal }: ChunkRequest = {}): Promise<boolean> {
    signal?.throwIfAborted();
    return this.#index.find(id) !== undefined;
  }

  /** @throws SITECAST_CHUNK_NOT_FOUND, also where other bytes are in its place */
  async get(id: ChunkId, { signal, into }: ChunkRequest = {}): Promise<Chunk> {
    signal?.throwIfAborted();
    const at = this.#index.find(id);
    if (at === undefined) throw chunkNotFound(id, this);
    const lengthBytes = this.#index.lengthOf(at);
    const memory = into && into.length >= lengthBytes ? into : Buffer.allocUnsafe(lengthBytes);
    const plain = memory.subarray(0, lengthBytes);
    if (!(await this.#reader.readInto(this.#index.startOf(at), plain))) throw chunkNotFound(id, this);
    const chunk = Chunk.fromPlain(id, plain);
    try {
      return chunk.verify();
    } catch (cause) {
      throw chunkNotFound(id, this, cause);
    }
  }
}
