import { type ChunkIndex, type ChunkStore, sameChunkId, sha256 } from '@sitecast/shared/content';
import type { PlacedWindow } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import type { Slot, SlotReader, SlotWriter, WindowApplier } from '../ports.ts';
import type { Spending } from '../state/spending.ts';
import type { Delta } from './deltas.ts';
import type { KeptPatches } from './kept-patches.ts';
import type { MissingChunks } from './missing-chunks.ts';

/** Patches that are kept in the data directory at one time, unless a single window needs more. */
const MAX_KEPT_BYTES = 8 * 1024 * 1024;

/** The update has to be planned anew, without this delta. */
export class DeltaUnusable extends Error {
  override readonly name = 'DeltaUnusable';
  readonly code: string;
  /** Whether the recipe itself was wrong: it isn't tried again. Otherwise only its patches can't be had, or cost too much. */
  readonly hasFailed: boolean;

  constructor(code: string, message: string, { hasFailed, cause }: { hasFailed: boolean; cause?: unknown }) {
    super(message, { cause });
    this.code = code;
    this.hasFailed = hasFailed;
  }
}

export interface WindowFill {
  delta: Delta;
  /** Those that the plan uses, in order. */
  windows: readonly PlacedWindow[];
  patchIndex: ChunkIndex;
  index: ChunkIndex;
  /** What windows give is removed from it. */
  missing: MissingChunks;
  booted: Slot;
  writer: SlotWriter;
  /** Fetches chunks of the patch index, and delivers them verified. */
  fetch: (
    wanted: readonly number[],
    deliver: (at: number, plain: Uint8Array) => Promise<void>,
  ) => Promise<void>;
  /** A chunk of the patch index is kept now. */
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
   * Batch after batch: the base ranges are checked first, then the patches are fetched and kept, then each window is made, checked chunk by
   * chunk and written, and made durable before its patches are let go. A window whose base was altered is left out: its chunks stay missing.
   * @throws DeltaUnusable; as `SlotWriter.write`; the reason of `signal`
   */
  async apply(fill: WindowFill): Promise<void> {
    const { patches, spending, applier } = this.#deps;
    const reader = await readerOf(fill.booted);
    if (!reader) return;
    try {
      for (const batch of batchesOf(fill.windows)) {
        const usable = await this.#withRightBase(fill, reader, batch);
        if (usable.length === 0) continue;
        await this.#fetchPatches(fill, usable);
        for (const window of usable) await this.#make(fill, reader, window);
        await fill.writer.finish(fill.index.lengthBytes);
        await spending.flush();
        await patches.keepOnly([]);
      }
    } finally {
      await reader.close();
      // Its thread isn't needed until the next download.
      await applier.close();
    }
  }

  /** The patches that are kept, to hand them out. */
  get kept(): ChunkStore {
    return this.#deps.patches.store;
  }

  /** Lets go of patches that an update has left which was given up. */
  clear(): Promise<void> {
    return this.#deps.patches.keepOnly([]);
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
      if (!isDone && (await readBase(reader, delta.base.index, window))) usable.push(window);
    }
    return usable;
  }

  async #fetchPatches(fill: WindowFill, windows: readonly PlacedWindow[]): Promise<void> {
    const { patches } = this.#deps;
    const { patchIndex, fetch, onKept, signal } = fill;
    const needed = windows.flatMap(window => patchChunksOf(patchIndex, window));
    // Each chunk once: patches may repeat one, too.
    const wanted = [...new Set(needed.map(at => patchIndex.find(patchIndex.idAt(at)) ?? at))];
    await patches.keepOnly(wanted.map(at => patchIndex.idAt(at)));
    const absent: number[] = [];
    for (const at of wanted) {
      if (await patches.get(patchIndex.idAt(at))) onKept(at);
      else absent.push(at);
    }
    try {
      await fetch(absent, async (at, plain) => {
        await patches.put(patchIndex.idAt(at), plain);
        onKept(at);
      });
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
    const base = await readBase(reader, delta.base.index, window);
    if (!base) return;
    const patch = await this.#patchOf(patchIndex, window);
    const maxMs = maxApplyMs - spending.applyMs;
    if (maxMs <= 0)
      throw new DeltaUnusable('SITECAST_APPLY_TIME', 'applying patches has taken all of --max-apply-time', {
        hasFailed: false,
      });
    let made: Uint8Array;
    try {
      const { bytes, cpuMs } = await applier.apply({
        patch,
        base,
        targetLength: window.targetLength,
        maxMs,
        signal,
      });
      spending.addApplyMs(cpuMs);
      made = bytes;
    } catch (cause) {
      signal.throwIfAborted();
      if (!(cause instanceof SitecastError)) throw cause;
      if (typeof cause.data.cpuMs === 'number') spending.addApplyMs(cause.data.cpuMs);
      throw new DeltaUnusable(cause.code, cause.message, { hasFailed: true, cause });
    }
    await write(fill, window, made);
  }

  async #patchOf(patchIndex: ChunkIndex, { patchOffset, patchLength }: PlacedWindow): Promise<Uint8Array> {
    const chunks = patchChunksOf(patchIndex, { patchOffset, patchLength });
    const parts = await Promise.all(chunks.map(at => this.#deps.patches.get(patchIndex.idAt(at))));
    const [first = 0] = chunks;
    const start = patchOffset - patchIndex.startOf(first);
    const whole = parts.filter(part => part !== undefined);
    if (whole.length === chunks.length) return Buffer.concat(whole).subarray(start, start + patchLength);
    const message = "a patch can't be read back from the data directory";
    throw new DeltaUnusable('SITECAST_PATCHES_UNAVAILABLE', message, { hasFailed: false });
  }
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
    // An image may repeat a chunk: it is written wherever it is missing.
    const first = index.find(index.idAt(at)) ?? at;
    for (const place of missing.placesOf(first)) {
      await writer.write(pieceOf(at), index.startOf(place));
      missing.remove(place);
      onWritten(place);
    }
  }
}

/** The window's base range, where the slot still holds all chunks that it lies in. */
async function readBase(
  reader: SlotReader,
  base: ChunkIndex,
  { baseOffset, baseLength }: PlacedWindow,
): Promise<Uint8Array | undefined> {
  if (baseLength === 0) return new Uint8Array(0);
  const first = base.chunkAt(baseOffset);
  const last = base.chunkAt(baseOffset + baseLength - 1);
  if (first === undefined || last === undefined) return undefined;
  const start = base.startOf(first);
  const bytes = Buffer.allocUnsafe(base.endOf(last) - start);
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

function chunksOf({ firstChunk, chunkCount }: PlacedWindow): number[] {
  return Array.from({ length: chunkCount }, (_, at) => firstChunk + at);
}

/** @throws DeltaUnusable where the patch lies beyond the end */
function patchChunksOf(
  patchIndex: ChunkIndex,
  { patchOffset, patchLength }: Pick<PlacedWindow, 'patchOffset' | 'patchLength'>,
): number[] {
  const first = patchIndex.chunkAt(patchOffset);
  const last = patchIndex.chunkAt(patchOffset + patchLength - 1);
  if (first === undefined || last === undefined)
    throw new DeltaUnusable('SITECAST_RECIPE_WINDOWS', 'the recipe names patches that do not exist', {
      hasFailed: true,
    });
  return Array.from({ length: last - first + 1 }, (_, at) => first + at);
}

function* batchesOf(windows: readonly PlacedWindow[]): Generator<PlacedWindow[]> {
  let batch: PlacedWindow[] = [];
  let batchBytes = 0;
  for (const window of windows) {
    if (batch.length > 0 && batchBytes + window.patchLength > MAX_KEPT_BYTES) {
      yield batch;
      [batch, batchBytes] = [[], 0];
    }
    batch.push(window);
    batchBytes += window.patchLength;
  }
  if (batch.length > 0) yield batch;
}

async function readerOf(slot: Slot): Promise<SlotReader | undefined> {
  try {
    return await slot.openForReading();
  } catch (error) {
    // A base that can't be opened is none.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}
