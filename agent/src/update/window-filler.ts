import {
  chunkIdToHex,
  type ChunkIndex,
  type ChunkStore,
  sameChunkId,
  sha256,
} from '@sitecast/shared/content';
import { isWorthFetching, patchChunkBytes, patchChunksOf, type PlacedWindow } from '@sitecast/shared/delta';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { formatBytes } from '@sitecast/shared/text';
import type { Slot, SlotReader, SlotWriter, WindowApplier } from '../ports.ts';
import { MAX_DEATHS, type Spending } from '../state/spending.ts';
import { DeltaUnusable, deadly, notKept, timeUsedUp } from './delta-unusable.ts';
import type { Delta } from './deltas.ts';
import type { KeptPatches } from './kept-patches.ts';
import type { MissingChunks } from './missing-chunks.ts';

/** Bound on the patches that are kept in the data directory at a time, unless a single window needs more. */
const MAX_KEPT_BYTES = 8 * 1024 * 1024;
/** Bytes that stay free in the data directory for the agent's other files. */
const RESERVED_BYTES = 1024 * 1024;
/** Error codes of a full or failing disk. */
const STORAGE_ERRORS = ['ENOSPC', 'EDQUOT', 'EROFS', 'EIO'];
/** How long to wait for a peer with a patch that the gateway refuses, in ms. */
const REFUSED_MS = 5000;

export interface WindowFill {
  delta: Delta;
  /** The windows that the plan uses, in order. */
  windows: readonly PlacedWindow[];
  patchIndex: ChunkIndex;
  index: ChunkIndex;
  /** Chunks that windows give are removed from it. */
  missing: MissingChunks;
  booted: Slot;
  writer: SlotWriter;
  /** Fetches chunks of the patch index, and delivers them verified. */
  fetch: (
    wanted: readonly number[],
    request: { refusedMs: number; deliver: (at: number, plain: Uint8Array) => Promise<void> },
  ) => Promise<void>;
  /** Called when a chunk of the patch index is kept. */
  onKept: (at: number) => void;
  signal: AbortSignal;
  onWritten: (at: number) => void;
}

interface WindowFillerDependencies {
  applier: WindowApplier;
  patches: KeptPatches;
  spending: Spending;
  maxApplyMs: number;
}

/** Writes the chunks that windows give. */
export class WindowFiller {
  readonly #deps: WindowFillerDependencies;

  constructor(deps: WindowFillerDependencies) {
    this.#deps = deps;
  }

  /**
   * Works in batches of windows. For each batch: checks the base ranges, fetches and keeps the patches, makes each window, checks and
   * writes it chunk by chunk, and drops its patches when that is durable. A window whose base was altered is left out, so its chunks stay
   * missing. If the agent has ended unexpectedly during this recipe before, each batch is one window.
   * @throws DeltaUnusable; what `SlotWriter.write` throws; the reason of `signal`
   */
  async apply(fill: WindowFill): Promise<void> {
    const { patches, spending, applier } = this.#deps;
    const { sha256: recipe } = fill.delta;
    const deaths = spending.deathsOf(recipe);
    if (deaths >= MAX_DEATHS) throw deadly(deaths);
    demandWorth(fill);
    const reader = await readerOf(fill.booted);
    if (!reader) return;
    try {
      const maxBatchBytes = deaths > 0 ? 0 : Math.min(MAX_KEPT_BYTES, await this.#roomBytes());
      let done = 0;
      for (const batch of batchesOf(fill.patchIndex, fill.windows, maxBatchBytes)) {
        const usable = await this.#withRightBase(fill, reader, batch);
        await this.#keepFrom(fill, done);
        done += batch.length;
        if (usable.length === 0) continue;
        await this.#fetchPatches(fill, usable);
        await this.#kept(spending.beginApplying(recipe));
        let hasProgress = false;
        try {
          for (const window of usable) await this.#make(fill, reader, window);
          await fill.writer.finish(fill.index.lengthBytes);
          hasProgress = true;
        } finally {
          await spending.endApplying({ hasProgress });
        }
      }
      await patches.keepOnly([]);
    } finally {
      await reader.close();
      // The thread isn't needed until the next download.
      await applier.close();
    }
  }

  /** The kept patches, for peers. */
  get kept(): ChunkStore {
    return this.#deps.patches.store;
  }

  /** Whether an earlier start has left patches. */
  async hasKept(): Promise<boolean> {
    return (await this.#deps.patches.ids()).size > 0;
  }

  /** How many bytes of each window's patch are kept already. */
  async keptBytesOf(patchIndex: ChunkIndex, windows: readonly PlacedWindow[]): Promise<number[]> {
    const ids = await this.#deps.patches.ids();
    return windows.map(({ patchOffset, patchLength }) => {
      const end = Math.min(patchOffset + patchLength, patchIndex.lengthBytes);
      let bytes = 0;
      for (let at = patchIndex.chunkAt(patchOffset) ?? patchIndex.count; at < patchIndex.count; at += 1) {
        const from = Math.max(patchIndex.startOf(at), patchOffset);
        if (from >= end) break;
        if (ids.has(chunkIdToHex(patchIndex.idAt(at)))) bytes += Math.min(patchIndex.endOf(at), end) - from;
      }
      return bytes;
    });
  }

  /** Drops the patches of an update that was given up. */
  clear(): Promise<void> {
    return this.#deps.patches.keepOnly([]);
  }

  async #roomBytes(): Promise<number> {
    return Math.max(0, (await this.#deps.patches.freeBytes()) - RESERVED_BYTES);
  }

  /**
   * Waits for a write to the data directory.
   * @throws DeltaUnusable where the disk is full or fails: chunks are written straight to the slot, so they may still work
   */
  async #kept<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (cause) {
      if (!isSystemError(cause, ...STORAGE_ERRORS)) throw cause;
      // Frees the space for the agent's other files. If that fails too, the first error is the one to report.
      await this.#deps.patches.keepOnly([]).catch(() => {});
      throw notKept(cause.message, cause);
    }
  }

  async #withRightBase(
    { delta, missing, signal }: WindowFill,
    reader: SlotReader,
    windows: readonly PlacedWindow[],
  ): Promise<PlacedWindow[]> {
    const usable = [];
    for (const window of windows) {
      signal.throwIfAborted();
      const isDone = !chunksOf(window).some(at => missing.has(at));
      if (!isDone && (await this.#readBase(reader, delta.base.index, window))) usable.push(window);
    }
    return usable;
  }

  /** Drops all patches except those of the windows to come, which an earlier start may have fetched. */
  async #keepFrom({ patchIndex, windows }: WindowFill, first: number): Promise<void> {
    const [ahead = []] = batchesOf(patchIndex, windows.slice(first), MAX_KEPT_BYTES);
    const needed = new Set(ahead.flatMap(window => neededChunks(patchIndex, window)));
    await this.#deps.patches.keepOnly([...needed].map(at => patchIndex.idAt(at)));
  }

  /** Reads the window's base range into the applier's memory, if the slot still holds all of its chunks. */
  async #readBase(
    reader: SlotReader,
    base: ChunkIndex,
    { baseOffset, baseLength }: PlacedWindow,
  ): Promise<Uint8Array | undefined> {
    if (baseLength === 0) return this.#deps.applier.baseMemory(0);
    const first = base.chunkAt(baseOffset);
    const last = base.chunkAt(baseOffset + baseLength - 1);
    if (first === undefined || last === undefined) return undefined;
    const start = base.startOf(first);
    const bytes = this.#deps.applier.baseMemory(base.endOf(last) - start);
    try {
      if (!(await reader.readInto(start, bytes))) return undefined;
    } catch (error) {
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
    for (let at = first; at <= last; at += 1) {
      const piece = bytes.subarray(base.startOf(at) - start, base.endOf(at) - start);
      if (!sameChunkId(sha256(piece), base.idAt(at))) return undefined;
    }
    return bytes.subarray(baseOffset - start, baseOffset - start + baseLength);
  }

  async #fetchPatches(fill: WindowFill, windows: readonly PlacedWindow[]): Promise<void> {
    const { patches } = this.#deps;
    const { patchIndex, fetch, onKept, signal } = fill;
    const needed = windows.flatMap(window => neededChunks(patchIndex, window));
    // Each chunk once: patches may share or repeat chunks.
    const wanted = [...new Set(needed.map(at => patchIndex.find(patchIndex.idAt(at)) ?? at))];
    const absent: number[] = [];
    for (const at of wanted) {
      if (await patches.get(patchIndex.idAt(at))) onKept(at);
      else absent.push(at);
    }
    const absentBytes = absent.reduce((sum, at) => sum + patchIndex.lengthOf(at), 0);
    const freeBytes = await patches.freeBytes();
    if (absentBytes + RESERVED_BYTES > freeBytes)
      throw notKept(
        `they take ${formatBytes(absentBytes)}, beside ${formatBytes(RESERVED_BYTES)} for the agent's other files, and ${formatBytes(freeBytes)} are free in ${patches.directory}`,
      );
    const deliver = async (at: number, plain: Uint8Array) => {
      await patches.put(patchIndex.idAt(at), plain);
      onKept(at);
    };
    try {
      await this.#kept(fetch(absent, { refusedMs: REFUSED_MS, deliver }));
    } catch (cause) {
      signal.throwIfAborted();
      if (!(cause instanceof SitecastError)) throw cause;
      const message = `the patches can't be had: ${cause.message}`;
      throw new DeltaUnusable('SITECAST_PATCHES_UNAVAILABLE', message, { hasFailed: false, cause });
    }
  }

  async #make(fill: WindowFill, reader: SlotReader, window: PlacedWindow): Promise<void> {
    const { delta, patchIndex, signal } = fill;
    const { applier, spending, maxApplyMs } = this.#deps;
    signal.throwIfAborted();
    const base = await this.#readBase(reader, delta.base.index, window);
    if (!base) return;
    const patch = await this.#patchOf(patchIndex, window);
    const maxMs = maxApplyMs - spending.applyMs;
    if (maxMs <= 0) throw timeUsedUp();
    let made: Uint8Array;
    try {
      const { targetLength } = window;
      const work = () => applier.apply({ patch, base, targetLength, maxMs, signal });
      made = (await this.#kept(spending.timed(work))).bytes;
    } catch (cause) {
      signal.throwIfAborted();
      if (!(cause instanceof SitecastError)) throw cause;
      // The limit was what remained for the whole release.
      if (cause.code === 'SITECAST_PATCH_TIME') throw timeUsedUp(cause);
      throw new DeltaUnusable(cause.code, cause.message, { hasFailed: true, cause });
    }
    await write(fill, window, made);
  }

  /** Reads the window's patch into the applier's memory, chunk by chunk. */
  async #patchOf(patchIndex: ChunkIndex, { patchOffset, patchLength }: PlacedWindow): Promise<Uint8Array> {
    const patch = this.#deps.applier.patchMemory(patchLength);
    for (const at of neededChunks(patchIndex, { patchOffset, patchLength })) {
      const chunk = await this.#deps.patches.get(patchIndex.idAt(at));
      if (chunk?.length !== patchIndex.lengthOf(at)) {
        const message = "a patch can't be read back from the data directory";
        throw new DeltaUnusable('SITECAST_PATCHES_UNAVAILABLE', message, { hasFailed: false });
      }
      const start = patchIndex.startOf(at) - patchOffset;
      patch.set(chunk.subarray(Math.max(0, -start), patchLength - start), Math.max(0, start));
    }
    return patch;
  }
}

/**
 * Checks the cost once more: the plan counts the patches themselves, but whole chunks are fetched.
 * @throws DeltaUnusable where these are far longer than the patches, and longer than what they give
 */
function demandWorth({ patchIndex, windows, index, missing }: WindowFill): void {
  const bytes = patchChunkBytes(patchIndex, windows);
  const given = windows.flatMap(window => chunksOf(window).filter(at => missing.has(at)));
  const givenBytes = given.reduce((sum, at) => sum + index.lengthOf(at), 0);
  const patchBytes = windows.reduce((sum, { patchLength }) => sum + patchLength, 0);
  if (isWorthFetching({ bytes, patchBytes, givenBytes })) return;
  const message = `the patches lie in ${bytes} bytes of chunks, and give ${givenBytes}`;
  throw new DeltaUnusable('SITECAST_PATCH_TOO_LARGE', message, { hasFailed: false });
}

/** Checks all chunks before the first is written. */
async function write(
  { index, missing, writer, onWritten }: WindowFill,
  window: PlacedWindow,
  made: Uint8Array,
): Promise<void> {
  const pieceOf = (at: number) => {
    const from = index.startOf(at) - window.targetOffset;
    return made.subarray(from, from + index.lengthOf(at));
  };
  for (const at of chunksOf(window)) {
    if (sameChunkId(sha256(pieceOf(at)), index.idAt(at))) continue;
    const message = `a patch makes other bytes than the release has (chunk ${at})`;
    throw new DeltaUnusable('SITECAST_PATCH_WRONG', message, { hasFailed: true });
  }
  for (const at of chunksOf(window)) {
    // An image may repeat a chunk. It is written to each missing place.
    const first = index.find(index.idAt(at)) ?? at;
    for (const place of missing.placesOf(first)) {
      await writer.write(pieceOf(at), index.startOf(place));
      missing.remove(place);
      onWritten(place);
    }
  }
}

function chunksOf({ firstChunk, chunkCount }: PlacedWindow): number[] {
  return Array.from({ length: chunkCount }, (_, at) => firstChunk + at);
}

/** @throws DeltaUnusable where the patch lies beyond the end */
function neededChunks(
  patchIndex: ChunkIndex,
  window: Pick<PlacedWindow, 'patchOffset' | 'patchLength'>,
): number[] {
  const chunks = patchChunksOf(patchIndex, window);
  if (chunks !== undefined) return chunks;
  const message = 'the recipe names patches that do not exist';
  throw new DeltaUnusable('SITECAST_RECIPE_WINDOWS', message, { hasFailed: true });
}

/** @param maxBytes of the chunks for one batch, unless it is a single window */
function* batchesOf(
  patchIndex: ChunkIndex,
  windows: readonly PlacedWindow[],
  maxBytes: number,
): Generator<PlacedWindow[]> {
  let batch: PlacedWindow[] = [];
  for (const window of windows) {
    if (batch.length > 0 && patchChunkBytes(patchIndex, [...batch, window]) > maxBytes) {
      yield batch;
      batch = [];
    }
    batch.push(window);
  }
  if (batch.length > 0) yield batch;
}

async function readerOf(slot: Slot): Promise<SlotReader | undefined> {
  try {
    return await slot.openForReading();
  } catch (error) {
    // A base that can't be opened counts as missing.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}
