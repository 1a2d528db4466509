import { createHash } from 'node:crypto';
import { type ChunkId, type ChunkIndex, sameChunkId } from '@sitecast/shared/content';
import type { Plan } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import type { Slot, SlotReader, SlotWriter } from '../ports.ts';
import type { MissingChunks } from './missing-chunks.ts';
import { type Move, orderMoves } from './moves.ts';

/** How many bytes of chunks that move in a circle are held in memory. */
const MAX_HELD_BYTES = 8 * 1024 * 1024;
/** How many places of a repeated chunk are tried if the first ones were altered. */
const MAX_PLACES_TRIED = 4;

/** Indexes of the slots' images, as far as known. */
interface CopySources {
  booted: ChunkIndex | undefined;
  /** Of the slot that is written: what it held before. */
  other: ChunkIndex | undefined;
}

export interface SlotCopy {
  index: ChunkIndex;
  /** Copied chunks are removed from it. */
  missing: MissingChunks;
  plan: Plan;
  sources: CopySources;
  slots: { booted: Slot; target: Slot };
  writer: SlotWriter;
  signal: AbortSignal;
  onWritten: (at: number) => void;
}

/**
 * Writes the chunks that the slots hold, as planned, and zeros. Each chunk is read, verified by its id, and then written. A chunk that
 * can't be read or verified stays missing, for example in a mounted or trimmed base, or on a bad block.
 * @throws as `SlotWriter.write`; the reason of `signal`
 */
export async function copyFromSlots(copy: SlotCopy): Promise<void> {
  const { index, slots, writer, sources } = copy;
  const copier = new Copier(copy);
  // The slot's own chunks come first: everything else overwrites them.
  await withReader(slots.target, reader => copier.moveWithin(reader));
  const emptyFrom = await writer.extend(index.lengthBytes);
  if (sources.booted) await withReader(slots.booted, reader => copier.copyFrom(reader));
  await copier.writeZeros(emptyFrom);
}

class Copier {
  readonly #copy: SlotCopy;
  readonly #memory: Buffer;

  constructor(copy: SlotCopy) {
    this.#copy = copy;
    this.#memory = Buffer.allocUnsafeSlow(copy.index.sizes.maxBytes);
  }

  async moveWithin(reader: SlotReader): Promise<void> {
    const { index, missing, signal } = this.#copy;
    const firsts = this.#planned('other');
    const moves: Move[] = firsts.map(first => ({
      from: this.#placeWithin(first),
      lengthBytes: index.lengthOf(first),
      to: [...missing.placesOf(first)].map(at => index.startOf(at)),
    }));
    const held = new Map<number, Buffer>();
    for (const { does, move } of orderMoves(moves, MAX_HELD_BYTES)) {
      signal.throwIfAborted();
      const first = firsts[move] ?? 0;
      const from = moves[move]?.from ?? 0;
      if (does === 'copy') await this.#copyChunk(reader, first, [from]);
      else if (does === 'hold') {
        const found = await this.#read(reader, first, from);
        if (found) held.set(move, Buffer.from(found));
      } else {
        const found = held.get(move);
        if (found) await this.#write(first, found);
        held.delete(move);
      }
    }
  }

  async copyFrom(reader: SlotReader): Promise<void> {
    const { index, sources } = this.#copy;
    for (const first of this.#planned('booted')) {
      this.#copy.signal.throwIfAborted();
      const places = sources.booted ? placesIn(sources.booted, index.idAt(first)) : [];
      await this.#copyChunk(reader, first, places);
    }
  }

  /** @param emptyFrom from there on the slot reads as zeros, so nothing is written: a file keeps its holes */
  async writeZeros(emptyFrom: number): Promise<void> {
    const { index, missing, signal } = this.#copy;
    for (const first of this.#planned('zero')) {
      signal.throwIfAborted();
      for (const at of missing.placesOf(first)) if (index.startOf(at) >= emptyFrom) this.#done(at);
      if ([...missing.placesOf(first)].length > 0)
        await this.#write(first, this.#memory.subarray(0, index.lengthOf(first)).fill(0));
    }
  }

  #planned(way: 'other' | 'booted' | 'zero'): number[] {
    const { missing, plan } = this.#copy;
    return [...missing.firsts()].filter(first => plan.wayOf(first) === way);
  }

  /** Where the slot that is written holds the chunk: in one of its places in the new image, or where the last image had it. */
  #placeWithin(first: number): number {
    const { index, missing, sources } = this.#copy;
    const id = index.idAt(first);
    for (let at = index.find(id); at !== undefined; at = index.nextSame(at))
      if (!missing.has(at)) return index.startOf(at);
    const place = sources.other?.find(id);
    return place === undefined ? 0 : (sources.other?.startOf(place) ?? 0);
  }

  async #copyChunk(reader: SlotReader, first: number, places: readonly number[]): Promise<void> {
    for (const from of places) {
      const found = await this.#read(reader, first, from);
      if (found) return this.#write(first, found);
    }
  }

  /** @returns undefined where other bytes are there, or nothing can be read */
  async #read(reader: SlotReader, first: number, from: number): Promise<Buffer | undefined> {
    const { index } = this.#copy;
    const into = this.#memory.subarray(0, index.lengthOf(first));
    try {
      if (!(await reader.readInto(from, into))) return undefined;
    } catch (error) {
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
    return sameChunkId(createHash('sha256').update(into).digest(), index.idAt(first)) ? into : undefined;
  }

  async #write(first: number, plain: Uint8Array): Promise<void> {
    const { index, missing, writer } = this.#copy;
    for (const at of missing.placesOf(first)) {
      await writer.write(plain, index.startOf(at));
      this.#done(at);
    }
  }

  #done(at: number): void {
    const { missing, onWritten } = this.#copy;
    missing.remove(at);
    onWritten(at);
  }
}

function placesIn(source: ChunkIndex, id: ChunkId): number[] {
  const places: number[] = [];
  for (
    let at = source.find(id);
    at !== undefined && places.length < MAX_PLACES_TRIED;
    at = source.nextSame(at)
  )
    places.push(source.startOf(at));
  return places;
}

async function withReader(slot: Slot, work: (reader: SlotReader) => Promise<void>): Promise<void> {
  let reader: SlotReader | undefined;
  try {
    reader = await slot.openForReading();
  } catch (error) {
    // A source that can't be opened counts as empty.
    if (!(error instanceof SitecastError)) throw error;
  }
  if (!reader) return;
  try {
    await work(reader);
  } finally {
    await reader.close();
  }
}
