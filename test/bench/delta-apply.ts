// Makes an image from another one and the delta that delta-make.js left in this folder: delta-apply.js BASE TARGET. What it makes is compared
// with TARGET byte for byte. With `idle` as a third argument it only reads what it needs, so that its peak is that of a process without work.
import { open, readFile } from 'node:fs/promises';
import { ChunkIndex, chunkIdOf, sameChunkId } from '@sitecast/shared/content';
import {
  applyPatch,
  decodeRecipe,
  type PlacedWindow,
  targetIndexOf,
  windowsOf,
} from '@sitecast/shared/delta';

const [basePath = '', targetPath = '', mode] = process.argv.slice(2);
const baseIndex = ChunkIndex.decode(await readFile('base.caibx'));
const recipe = decodeRecipe(await readFile('recipe'));
const index = targetIndexOf(recipe, baseIndex);
if (index === undefined) throw new Error('the recipe has no index');
const target = index;
const windows = windowsOf(recipe, baseIndex, target);

const base = await open(basePath);
const expected = await open(targetPath);
const patches = await open('patches');
let chunk = 0;
let fetchedChunks = 0;
if (mode !== 'idle') {
  for (const window of windows) {
    while (chunk < window.firstChunk) await reuse(chunk++);
    await patch(window);
    chunk += window.chunkCount;
  }
  while (chunk < target.count) await reuse(chunk++);
}
process.stdout.write(JSON.stringify({ fetchedChunks }));

async function reuse(at: number): Promise<void> {
  const number = baseIndex.find(target.idAt(at));
  const wanted = await read(expected, target.startOf(at), target.lengthOf(at));
  if (number === undefined) {
    if (wanted.some(byte => byte !== 0)) fetchedChunks++;
    return;
  }
  check(await read(base, baseIndex.startOf(number), baseIndex.lengthOf(number)), wanted, at);
}

async function patch({ firstChunk, chunkCount, ...window }: PlacedWindow): Promise<void> {
  const bytes = applyPatch({
    patch: await read(patches, window.patchOffset, window.patchLength),
    base: await read(base, window.baseOffset, window.baseLength),
    targetLength: window.targetLength,
  });
  for (let at = firstChunk; at < firstChunk + chunkCount; at++) {
    const start = target.startOf(at) - window.targetOffset;
    const made = bytes.subarray(start, start + target.lengthOf(at));
    check(made, await read(expected, target.startOf(at), target.lengthOf(at)), at);
  }
}

/** As a device does: by the signed index. And, which a device can't, by the image itself. */
function check(made: Uint8Array, wanted: Uint8Array, at: number): void {
  if (!sameChunkId(chunkIdOf(made), target.idAt(at))) throw new Error(`chunk ${at} is wrong`);
  if (Buffer.compare(made, wanted) !== 0) throw new Error(`chunk ${at} is not the image's`);
}

async function read(file: typeof base, offset: number, lengthBytes: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(lengthBytes);
  await file.read(bytes, 0, lengthBytes, offset);
  return bytes;
}
