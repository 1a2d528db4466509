// Makes the delta from one image to another, as the origin does: delta-make.js BASE TARGET. The folder must have the images' indexes from
// delta-index.js. It leaves what would be sent there: `recipe` and `patches` (plain), and prints figures. With `idle` as a third argument
// it ends before making anything, to measure the peak memory of an origin without work.
import { createHash } from 'node:crypto';
import { type FileHandle, open, readFile, writeFile } from 'node:fs/promises';
import { ChunkIndex, compressFrame, DEFAULT_ZSTD_LEVEL } from '@sitecast/shared/content';
import {
  type ComposedWindow,
  composeDelta,
  composedWindow,
  type ImageSource,
  makeDelta,
} from '@sitecast/origin/maker';
import { decodeRecipe } from '@sitecast/shared/delta';

const [basePath = '', targetPath = '', mode] = process.argv.slice(2);

const files: FileHandle[] = [];
const base = await imageAt(basePath, 'base.caibx');
const target = await imageAt(targetPath, 'target.caibx');
// The memory of a process that has only the indexes. An origin takes that anyway.
if (mode === 'idle') process.exit();
const frameBytes = async (chunk: number): Promise<number> =>
  frameOf(await target.read(target.index.startOf(chunk), target.index.lengthOf(chunk)));

const windows: ComposedWindow[] = [];
const unmade: string[] = [];
for await (const { patch, unmade: why, ...window } of makeDelta({ base, target, frameBytes, niceness: 0 })) {
  if (patch === undefined) unmade.push(why ?? '');
  else windows.push(composedWindow({ ...window, patch }));
}
const head = {
  product: 'bench',
  from: { counter: 1, indexSha256: sha256(base.index) },
  to: { counter: 2, indexSha256: sha256(target.index) },
};
const delta = await composeDelta(head, { base: base.index, target: target.index }, windows, frameBytes);
const chunks: Uint8Array[] = [];
for await (const chunk of delta.chunks()) chunks.push(chunk);
await writeFile('recipe', delta.recipe);
await writeFile('patches', Buffer.concat(chunks));
const figures: DeltaFigures = {
  recipeBytes: delta.recipe.length,
  patchIndexBytes: delta.patchIndex.encode().length,
  patchBytes: chunks.reduce((sum, chunk) => sum + frameOf(chunk), 0),
  chunkBytes: decodeRecipe(delta.recipe).restFrameBytes,
  windows: windows.length,
  unmade,
};
await Promise.all(files.map(file => file.close()));
process.stdout.write(JSON.stringify(figures));

/** Bytes that a device fetches: patches and chunks as zstd frames. */
export interface DeltaFigures {
  readonly recipeBytes: number;
  readonly patchIndexBytes: number;
  readonly patchBytes: number;
  readonly chunkBytes: number;
  readonly windows: number;
  /** The reasons why windows have no patch. */
  readonly unmade: readonly string[];
}

async function imageAt(path: string, indexPath: string): Promise<ImageSource> {
  const file = await open(path);
  files.push(file);
  return {
    index: ChunkIndex.decode(await readFile(indexPath)),
    read: (offset, lengthBytes) => read(file, offset, lengthBytes),
  };
}

async function read(file: FileHandle, offset: number, lengthBytes: number): Promise<Buffer> {
  const bytes = Buffer.alloc(lengthBytes);
  const { bytesRead } = await file.read(bytes, 0, lengthBytes, offset);
  if (bytesRead < lengthBytes) throw new Error('the image ends early');
  return bytes;
}

function frameOf(bytes: Uint8Array): number {
  return compressFrame(bytes, DEFAULT_ZSTD_LEVEL).length;
}

function sha256(index: ChunkIndex): string {
  return createHash('sha256').update(index.encode()).digest('hex');
}
