import {
  CHUNK_ID_BYTES,
  type ChunkIndex,
  ChunkIndexBuilder,
  MAX_CHUNK_BYTES,
  MAX_INDEX_BYTES,
  MAX_INDEX_CHUNKS,
} from '../content/index.ts';
import { SitecastError } from '../errors.ts';
import { type ByteReader, ByteWriter } from './bytes.ts';

// The target's index as a difference to the base's:
//   sizes    uint min, avg, max chunk size
//   runs     uint count, then columns: uint (chunks of the run - 1) * 2 + (1 where they are new),
//            int number of the base's first chunk, less the chunk after the run before
//   lengths  for each new chunk: int length, less that of the base's chunk at the same place of the run (0 beyond the base's end)
//   ids      for each new chunk: 32 bytes
// Runs of new chunks refer to chunks of the base too, but only to guess lengths: most cut points are where they were.

/** Bytes of one chunk in an index: its end and its id. */
const CHUNK_ITEM_BYTES = 8 + CHUNK_ID_BYTES;

/** A run of the target's chunks: copied from the base's index, or new. */
interface IndexRun {
  readonly chunkCount: number;
  readonly isNew: boolean;
  /** Number of the base's chunk that the first one is copied from or compared with. */
  readonly baseChunk: number;
}

/** The target's index, given the base's. */
export interface IndexDifference {
  readonly sizes: { readonly minBytes: number; readonly avgBytes: number; readonly maxBytes: number };
  readonly runs: readonly IndexRun[];
  /** Of each new chunk: its length, less that of the base's chunk that it is compared with. */
  readonly lengthSteps: Int32Array;
  /** Of each new chunk: 32 bytes. */
  readonly ids: Uint8Array;
}

/** How many chunks around the expected one of the base are searched for a better one, and for how many chunks that one must fit better. */
const SEARCH_CHUNKS = 8;
const COMPARED_CHUNKS = 4;

/**
 * The difference, with which a device that has the base's index needn't fetch the target's. Undefined for an index that this format can't
 * describe.
 */
export function encodeIndexDifference(base: ChunkIndex, target: ChunkIndex): Buffer | undefined {
  const runs = runsOf(base, target);
  const writer = new ByteWriter();
  for (const size of [target.sizes.minBytes, target.sizes.avgBytes, target.sizes.maxBytes]) writer.uint(size);
  writer.uint(runs.length);
  for (const { chunkCount, isNew } of runs) writer.uint((chunkCount - 1) * 2 + (isNew ? 1 : 0));
  let expected = 0;
  for (const { chunkCount, baseChunk } of runs) {
    writer.int(baseChunk - expected);
    expected = baseChunk + chunkCount;
  }
  for (const [at, baseChunk] of newChunks(runs)) writer.int(target.lengthOf(at) - lengthIn(base, baseChunk));
  for (const [at] of newChunks(runs)) writer.add(target.idAt(at));
  // An index that another program wrote may have header fields that ours never has.
  return rebuild(base, runs, target).encode().equals(target.encode()) ? writer.finish() : undefined;
}

/** Rebuilds the index from its difference to the target, to see whether its bytes come back. */
function rebuild(base: ChunkIndex, runs: readonly IndexRun[], target: ChunkIndex): ChunkIndex {
  const builder = new ChunkIndexBuilder(target.sizes);
  let at = 0;
  for (const { chunkCount, isNew, baseChunk } of runs)
    for (let place = 0; place < chunkCount; place += 1, at += 1)
      builder.add(isNew ? target.idAt(at) : base.idAt(baseChunk + place), target.endOf(at));
  return builder.finish();
}

/** The number of each new chunk in the target, and of the base's chunk that it is compared with. */
function* newChunks(runs: readonly IndexRun[]): Generator<[number, number]> {
  let at = 0;
  for (const { chunkCount, isNew, baseChunk } of runs) {
    if (isNew) for (let place = 0; place < chunkCount; place += 1) yield [at + place, baseChunk + place];
    at += chunkCount;
  }
}

function lengthIn(index: ChunkIndex, at: number): number {
  return at < index.count ? index.lengthOf(at) : 0;
}

function runsOf(base: ChunkIndex, target: ChunkIndex): IndexRun[] {
  const runs: { chunkCount: number; isNew: boolean; baseChunk: number }[] = [];
  let expected = 0;
  for (let at = 0; at < target.count; at += 1) {
    const copied = copyOf(base, target, at, expected);
    const isNew = copied === undefined;
    const baseChunk = copied ?? nearest(base, target, at, expected);
    const last = runs.at(-1);
    if (last?.isNew === isNew && last.baseChunk + last.chunkCount === baseChunk) last.chunkCount += 1;
    else runs.push({ chunkCount: 1, isNew, baseChunk });
    expected = baseChunk + 1;
  }
  return runs;
}

/** Finds this chunk in the base; of several, the expected one. */
function copyOf(base: ChunkIndex, target: ChunkIndex, at: number, expected: number): number | undefined {
  const isSame = (chunk: number) =>
    chunk < base.count &&
    Buffer.compare(base.idAt(chunk), target.idAt(at)) === 0 &&
    base.lengthOf(chunk) === target.lengthOf(at);
  if (isSame(expected)) return expected;
  const found = base.find(target.idAt(at));
  return found !== undefined && isSame(found) ? found : undefined;
}

/** The chunk of the base near the expected one whose length, with the lengths of the next ones, fits best. */
function nearest(base: ChunkIndex, target: ChunkIndex, at: number, expected: number): number {
  const cost = (chunk: number) => {
    let bytes = chunk === expected ? 0 : 3;
    for (let next = 0; next < COMPARED_CHUNKS && at + next < target.count; next += 1)
      bytes += bytesOf(target.lengthOf(at + next) - lengthIn(base, chunk + next));
    return bytes;
  };
  let best = expected;
  let least = cost(expected);
  for (let step = 1; step <= SEARCH_CHUNKS; step += 1)
    for (const chunk of [expected - step, expected + step]) {
      if (chunk < 0 || chunk >= base.count) continue;
      const bytes = cost(chunk);
      if (bytes < least) [best, least] = [chunk, bytes];
    }
  return best;
}

/** Length of a zigzag-coded varint. */
function bytesOf(value: number): number {
  return Math.max(1, Math.ceil(Math.log2(Math.abs(value) * 2 + 1) / 7));
}

/** @throws SITECAST_RECIPE_TRUNCATED, SITECAST_RECIPE_INVALID */
export function readIndexDifference(reader: ByteReader): IndexDifference {
  const size = (name: string) => reader.uint(`the ${name} chunk size`, MAX_CHUNK_BYTES);
  const sizes = { minBytes: size('smallest'), avgBytes: size('average'), maxBytes: size('largest') };
  const runCount = reader.uint('the number of index runs', Math.min(MAX_INDEX_CHUNKS, reader.left));
  const heads = Array.from({ length: runCount }, () =>
    reader.uint('the chunks of an index run', MAX_INDEX_CHUNKS * 2),
  );
  let expected = 0;
  let newCount = 0;
  let count = 0;
  const runs = heads.map((head): IndexRun => {
    const run = {
      chunkCount: Math.floor(head / 2) + 1,
      isNew: head % 2 === 1,
      baseChunk: expected + reader.int("an index run's chunk", MAX_INDEX_CHUNKS),
    };
    expected = run.baseChunk + run.chunkCount;
    count += run.chunkCount;
    if (run.isNew) newCount += run.chunkCount;
    if (run.baseChunk < 0) throw reader.invalid('an index run begins before the first chunk');
    return run;
  });
  if (count > MAX_INDEX_CHUNKS) throw reader.invalid(`its index lists ${count} chunks`);
  // Each new chunk takes at least 33 bytes: nothing is allocated for a count without as many bytes.
  if (newCount * (CHUNK_ID_BYTES + 1) > reader.left) throw reader.invalid('its new chunks are cut off');
  const lengthSteps = Int32Array.from({ length: newCount }, () =>
    reader.int("a new chunk's length", MAX_CHUNK_BYTES),
  );
  return {
    sizes,
    runs,
    lengthSteps,
    ids: reader.take(newCount * CHUNK_ID_BYTES),
  };
}

/**
 * Rebuilds the target's index.
 * @throws SITECAST_RECIPE_INDEX, SITECAST_INDEX_… where the result isn't an index
 */
export function rebuiltIndex(
  { sizes, runs, lengthSteps, ids }: IndexDifference,
  base: ChunkIndex,
  maxBytes = MAX_INDEX_BYTES,
): ChunkIndex {
  const count = runs.reduce((sum, { chunkCount }) => sum + chunkCount, 0);
  if (count * CHUNK_ITEM_BYTES > maxBytes) throw noIndex(`it lists ${count} chunks`);
  const builder = new ChunkIndexBuilder(sizes);
  let end = 0;
  let fresh = 0;
  for (const { chunkCount, isNew, baseChunk } of runs)
    for (let chunk = baseChunk; chunk < baseChunk + chunkCount; chunk += 1) {
      if (!isNew && chunk >= base.count) throw noIndex('it copies beyond the end of the base');
      const step = isNew ? (lengthSteps[fresh] ?? 0) : 0;
      end += lengthIn(base, chunk) + step;
      if (isNew) {
        builder.add(ids.subarray(fresh * CHUNK_ID_BYTES, (fresh + 1) * CHUNK_ID_BYTES), end);
        fresh += 1;
      } else builder.add(base.idAt(chunk), end);
    }
  return builder.finish();
}

export function noIndex(what: string, cause?: unknown): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_RECIPE_INDEX',
    `the recipe does not give the target's index: ${what}`,
    { cause },
  );
}
