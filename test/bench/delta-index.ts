// Cuts an image into chunks, as publishing does: delta-index.js IMAGE INDEX
import { type FileHandle, open, writeFile } from 'node:fs/promises';
import {
  ChunkCutter,
  type ChunkIndex,
  ChunkIndexBuilder,
  chunkIdOf,
  DEFAULT_CHUNK_SIZES,
} from '@sitecast/shared/content';

const BLOCK_BYTES = 4 * 1024 * 1024;
const [imagePath = '', indexPath = ''] = process.argv.slice(2);

const image = await open(imagePath);
const index = await indexOf(image, (await image.stat()).size);
await writeFile(indexPath, index.encode());
await image.close();

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

async function read(file: FileHandle, offset: number, lengthBytes: number): Promise<Buffer> {
  const bytes = Buffer.alloc(lengthBytes);
  const { bytesRead } = await file.read(bytes, 0, lengthBytes, offset);
  if (bytesRead < lengthBytes) throw new Error('the image ends early');
  return bytes;
}
