// Makes an image from another one and the delta that delta-make.js has left in this folder: delta-apply.js BASE TARGET. Compares the result
// with TARGET byte for byte. With `idle` as a third argument it only reads its input, to measure the peak memory of a process without work.
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { ChunkIndex, chunkIdOf, MAX_CHUNK_BYTES, sameChunkId } from '@sitecast/shared/content';
import {
  PatchApplier,
  decodeRecipe,
  readPatch,
  readViews,
  type PlacedWindow,
  targetIndexOf,
  windowsOf,
} from '@sitecast/shared/delta';

const MAX_WINDOW_MS = 600_000;
const [basePath = '', targetPath = '', mode] = process.argv.slice(2);
const baseIndex = ChunkIndex.decode(await readFile('base.caibx'));
const recipe = decodeRecipe(await readFile('recipe'));
const index = targetIndexOf(recipe, baseIndex);
if (index === undefined) throw new Error('the recipe has no index');
const target = index;
const windows = windowsOf(recipe, baseIndex, target);

const baseFile = await open(basePath);
const expected = await open(targetPath);
const patches = await open('patches');
const applier = new PatchApplier();
/** Reused, as on a device: otherwise garbage would be the peak. */
const memories = [Buffer.alloc(MAX_CHUNK_BYTES), Buffer.alloc(MAX_CHUNK_BYTES)] as const;
let chunk = 0;
let fetchedChunks = 0;
/** Plain bytes of closed pieces. */
let closedBytes = 0;
if (mode !== 'idle') {
  for (const window of windows) {
    while (chunk < window.firstChunk) await reuse(chunk++);
    await patch(window);
    chunk += window.chunkCount;
  }
  while (chunk < target.count) await reuse(chunk++);
}
await applier.close();
process.stdout.write(JSON.stringify({ fetchedChunks, closedBytes }));

async function reuse(at: number): Promise<void> {
  const number = baseIndex.find(target.idAt(at));
  const wanted = await read(expected, target.startOf(at), memories[0].subarray(0, target.lengthOf(at)));
  if (number === undefined) {
    if (wanted.some(byte => byte !== 0)) fetchedChunks++;
    return;
  }
  const held = memories[1].subarray(0, baseIndex.lengthOf(number));
  check(await read(baseFile, baseIndex.startOf(number), held), wanted, at);
}

async function patch({ firstChunk, chunkCount, ...window }: PlacedWindow): Promise<void> {
  const base = applier.baseMemory(window.baseLength);
  await read(baseFile, window.baseOffset, base);
  const patchBytes = await read(patches, window.patchOffset, applier.patchMemory(window.patchLength));
  const { views } = readPatch(patchBytes);
  const layers = views === undefined ? [] : readViews(views).target;
  for (const { plainLength } of layers.flatMap(layer => layer.pieces)) closedBytes += plainLength;
  const { bytes } = await applier.apply({
    patch: patchBytes,
    base,
    targetLength: window.targetLength,
    maxMs: MAX_WINDOW_MS,
  });
  for (let at = firstChunk; at < firstChunk + chunkCount; at++) {
    const start = target.startOf(at) - window.targetOffset;
    const made = bytes.subarray(start, start + target.lengthOf(at));
    check(made, await read(expected, target.startOf(at), memories[0].subarray(0, made.length)), at);
  }
}

/** Checks as a device does, by the signed index; and, which a device can't, by the image itself. */
function check(made: Uint8Array, wanted: Uint8Array, at: number): void {
  if (!sameChunkId(chunkIdOf(made), target.idAt(at))) throw new Error(`chunk ${at} is wrong`);
  if (Buffer.compare(made, wanted) !== 0) throw new Error(`chunk ${at} is not the image's`);
}

async function read(file: FileHandle, offset: number, bytes: Uint8Array): Promise<Uint8Array> {
  const { bytesRead } = await file.read(bytes, 0, bytes.length, offset);
  if (bytesRead < bytes.length) throw new Error('a file ends early');
  return bytes;
}
