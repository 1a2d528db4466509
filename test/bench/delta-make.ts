// Makes the delta from one image to another, as the origin does: delta-make.js BASE TARGET, in a folder in which it leaves what is sent:
// `recipe`, `patches` (plain), and figures on its standard output.
import { createHash } from 'node:crypto';
import { type FileHandle, open, writeFile } from 'node:fs/promises';
import {
  ChunkCutter,
  type ChunkIndex,
  ChunkIndexBuilder,
  chunkIdOf,
  compressFrame,
  DEFAULT_CHUNK_SIZES,
  DEFAULT_ZSTD_LEVEL,
} from '@sitecast/shared/content';
import {
  type ComposedWindow,
  composeDelta,
  composedWindow,
  type ImageSource,
  makeDelta,
} from '@sitecast/origin/maker';
import { decodeRecipe } from '@sitecast/shared/delta';

const BLOCK_BYTES = 4 * 1024 * 1024;
const [basePath = '', targetPath = ''] = process.argv.slice(2);

const base = await imageAt(basePath);
const target = await imageAt(targetPath);
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
await writeFile('base.caibx', base.index.encode());
const figures: DeltaFigures = {
  recipeBytes: delta.recipe.length,
  patchIndexBytes: delta.patchIndex.encode().length,
  patchBytes: chunks.reduce((sum, chunk) => sum + frameOf(chunk), 0),
  chunkBytes: decodeRecipe(delta.recipe).restFrameBytes,
  windows: windows.length,
  unmade,
};
process.stdout.write(JSON.stringify(figures));

/** What a device fetches, in bytes: patches and chunks as zstd frames. */
export interface DeltaFigures {
  readonly recipeBytes: number;
  readonly patchIndexBytes: number;
  readonly patchBytes: number;
  readonly chunkBytes: number;
  readonly windows: number;
  /** Why windows have no patch. */
  readonly unmade: readonly string[];
}

async function imageAt(path: string): Promise<ImageSource> {
  const file = await open(path);
  const { size } = await file.stat();
  return { index: await indexOf(file, size), read: (offset, lengthBytes) => read(file, offset, lengthBytes) };
}

async function read(file: FileHandle, offset: number, lengthBytes: number): Promise<Buffer> {
  const bytes = Buffer.alloc(lengthBytes);
  const { bytesRead } = await file.read(bytes, 0, lengthBytes, offset);
  if (bytesRead < lengthBytes) throw new Error('the image ends early');
  return bytes;
}

async function indexOf(file: FileHandle, lengthBytes: number): Promise<ChunkIndex> {
  const builder = new ChunkIndexBuilder(DEFAULT_CHUNK_SIZES);
  const cutter = new ChunkCutter();
  let pending: Buffer = Buffer.alloc(0);
  let end = 0;
  const add = (chunk: Buffer): void => {
    end += chunk.length;
    builder.add(chunkIdOf(chunk), end);
  };
  for (let offset = 0; offset < lengthBytes; offset += BLOCK_BYTES) {
    const from = pending.length;
    const block = Buffer.concat([
      pending,
      await read(file, offset, Math.min(BLOCK_BYTES, lengthBytes - offset)),
    ]);
    let start = 0;
    for (
      let at = cutter.next(block, from, block.length);
      at !== -1;
      at = cutter.next(block, at, block.length)
    ) {
      add(block.subarray(start, at));
      start = at;
    }
    pending = block.subarray(start);
  }
  if (pending.length > 0) add(pending);
  return builder.finish();
}

function frameOf(bytes: Uint8Array): number {
  return compressFrame(bytes, DEFAULT_ZSTD_LEVEL).length;
}

function sha256(index: ChunkIndex): string {
  return createHash('sha256').update(index.encode()).digest('hex');
}
