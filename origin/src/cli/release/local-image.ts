import type { FileHandle } from 'node:fs/promises';
import {
  type ChunkId,
  type ChunkIndex,
  chunkIdOf,
  compressFrame,
  openImage,
  readIndexed,
  sameChunkId,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import type { ImageSource } from '../../deltas/maker/index.ts';
import { type ImageOptions, openStore, sourceOf } from './image-upload.ts';

/** An image on this machine, read by the chunks of an index. Each chunk is checked by its id whenever it is read. */
export interface LocalImage extends ImageSource {
  /** The bytes of a chunk, by its number. @throws SITECAST_IMAGE_CHANGED; SITECAST_CHUNK_NOT_FOUND, SITECAST_CHUNK_MISMATCH of a store */
  plain(chunk: number): Promise<Uint8Array>;
  /** Length of the frame of a chunk, by its number, as it was or would be uploaded. @throws as `plain` */
  frameBytes(chunk: number): Promise<number>;
  close(): Promise<void>;
}

/** @throws as `openImage`, or what a casync store throws */
export async function openLocalImage(options: ImageOptions, index: ChunkIndex): Promise<LocalImage> {
  const source = sourceOf(options);
  if ('path' in source) return await openFile(source.path, index, options.zstdLevel);
  const store = await openStore(source.store);
  const chunkOf = async (at: number) => (await store.get(index.idAt(at))).verify(index.lengthOf(at));
  const plain = async (at: number) => (await chunkOf(at)).plain();
  return {
    ...sourceBy(index, plain),
    plain,
    frameBytes: async at => (await chunkOf(at)).frame().length,
    close: async () => {},
  };
}

async function openFile(path: string, index: ChunkIndex, level: number): Promise<LocalImage> {
  const { handle } = await openImage(path);
  const plain = async (at: number): Promise<Buffer> => {
    const bytes = await readFully(handle, index.startOf(at), index.lengthOf(at));
    if (bytes && isChunk(bytes, index.idAt(at))) return bytes;
    throw new SitecastError('conflict', 'SITECAST_IMAGE_CHANGED', `${path} was changed while it was read`, {
      hint: 'Publish it once nothing writes to it any more.',
      data: { path },
    });
  };
  return {
    ...sourceBy(index, plain),
    plain,
    frameBytes: async at => compressFrame(await plain(at), level).length,
    close: () => handle.close(),
  };
}

function sourceBy(index: ChunkIndex, plain: (at: number) => Promise<Uint8Array>): ImageSource {
  return { index, read: (offset, lengthBytes) => readIndexed(index, { offset, lengthBytes }, plain) };
}

/** @returns undefined where the file ends before */
export async function readFully(
  file: FileHandle,
  offset: number,
  lengthBytes: number,
): Promise<Buffer | undefined> {
  const bytes = Buffer.allocUnsafe(lengthBytes);
  for (let at = 0; at < lengthBytes; ) {
    const { bytesRead } = await file.read(bytes, at, lengthBytes - at, offset + at);
    if (bytesRead === 0) return undefined;
    at += bytesRead;
  }
  return bytes;
}

const isChunk = (bytes: Uint8Array, id: ChunkId): boolean => sameChunkId(chunkIdOf(bytes), id);
