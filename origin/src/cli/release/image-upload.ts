import { createHash } from 'node:crypto';
import {
  CHUNK_ID_BYTES,
  ChunkIndex,
  type ChunkSink,
  type ChunkSizes,
  countIds,
  DirectoryStore,
  type ImageSummary,
  MAX_INDEX_BYTES,
  MAX_MISSING_IDS,
  openImage,
  type UploadCounts,
  type UploadOptions,
  uploadImage,
  uploadStored,
} from '@sitecast/shared/content';
import { readFileBounded } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import type { OriginClient } from '../origin/client.ts';
import { formatBytes } from '../output.ts';
import { byteProgress } from '../terminal.ts';

const HASH_PIECE_BYTES = 1024 * 1024;

/** Where the image comes from: a file, a block device, or an index and store of casync. */
export interface ImageOptions {
  image?: string | undefined;
  caibx?: string | undefined;
  store?: string | undefined;
  chunkSize?: ChunkSizes | undefined;
  zstdLevel: number;
  quiet: boolean;
}

export interface UploadedImage {
  lengthBytes: number;
  /** SHA-256 of the whole image, in hex. */
  sha256: string;
  chunks: number;
  newChunks: number;
  sentBytes: number;
  /** The bytes of the `.caibx`. */
  index: Buffer;
}

/** Sends the chunks of an image that the origin lacks. A repeated call continues an interrupted one. */
export async function uploadImageTo(
  origin: OriginClient,
  options: ImageOptions,
  title: string,
): Promise<UploadedImage> {
  const display = byteProgress(title, options.quiet, 'sent');
  let progress = { readBytes: 0, totalBytes: 0, sentBytes: 0 };
  const upload: UploadOptions = {
    target: sinkOf(origin),
    level: options.zstdLevel,
    onProgress: ({ lengthBytes, doneBytes, sentBytes }) => {
      progress = { readBytes: doneBytes, totalBytes: lengthBytes ?? doneBytes, sentBytes };
      display.update(progress);
    },
  };
  try {
    return describe(await send(options, upload));
  } catch (error) {
    throw error instanceof SitecastError && error.kind === 'noSpace'
      ? outOfRoom(error, title, progress)
      : error;
  } finally {
    display.stop();
  }
}

/** How much room the rest takes isn't known before it is compressed: what is told is how far it got. */
function outOfRoom(
  { kind, code, message, hint, data }: SitecastError,
  title: string,
  { readBytes, totalBytes, sentBytes }: { readBytes: number; totalBytes: number; sentBytes: number },
): SitecastError {
  const progress = `${formatBytes(readBytes)} of ${formatBytes(totalBytes)} had been read of ${title}, ${formatBytes(sentBytes)} sent`;
  return new SitecastError(kind, code, `${message} (${progress})`, {
    hint: `${hint ?? 'Make room at the origin.'} The same command then goes on where it stopped.`,
    data,
  });
}

async function send(options: ImageOptions, upload: UploadOptions): Promise<ImageSummary & UploadCounts> {
  const source = sourceOf(options);
  if ('path' in source) {
    return uploadImage({
      ...upload,
      path: source.path,
      ...(options.chunkSize && { sizes: options.chunkSize }),
    });
  }
  return uploadStored({
    ...upload,
    index: await readIndex(source.caibx),
    store: await openStore(source.store),
  });
}

/** How many chunks of an index the origin lacks or has damaged. */
export async function countLost(origin: OriginClient, index: ChunkIndex): Promise<number> {
  const ids = Buffer.concat([...index.places()].map(({ id }) => id));
  let lost = 0;
  for (let at = 0; at < ids.length; at += MAX_MISSING_IDS * CHUNK_ID_BYTES) {
    const bytes = ids.subarray(at, at + MAX_MISSING_IDS * CHUNK_ID_BYTES);
    lost += countIds(await origin.bytes('/api/v1/chunks/missing', { method: 'POST', bytes }));
  }
  return lost;
}

/** Length and SHA-256 of an image that isn't uploaded. */
export async function hashImage(options: ImageOptions): Promise<{ lengthBytes: number; sha256: string }> {
  const source = sourceOf(options);
  const hash = createHash('sha256');
  let lengthBytes = 0;
  const count = (bytes: Buffer): void => {
    lengthBytes += bytes.length;
    hash.update(bytes);
  };
  if ('path' in source) {
    const { handle, found } = await openImage(source.path);
    // The end is fixed, because reading a growing file would never end.
    const end = found.isFile() ? { end: Number(found.size) - 1 } : {};
    // The stream closes the handle.
    for await (const part of handle.createReadStream({ highWaterMark: HASH_PIECE_BYTES, ...end }))
      count(part);
  } else {
    const store = await openStore(source.store);
    for (const { id, lengthBytes: length } of (await readIndex(source.caibx)).places()) {
      count(Buffer.from((await store.get(id)).verify(length).plain()));
    }
  }
  return { lengthBytes, sha256: hash.digest('hex') };
}

/** @throws SITECAST_OPTIONS_CLASH (badInput) */
export function sourceOf({
  image,
  caibx,
  store,
  chunkSize,
}: ImageOptions): { path: string } | { caibx: string; store: string } {
  if (image !== undefined && caibx === undefined && store === undefined) return { path: image };
  if (image === undefined && caibx !== undefined && store !== undefined && chunkSize === undefined)
    return { caibx, store };
  throw new SitecastError('badInput', 'SITECAST_OPTIONS_CLASH', 'give an image, or --caibx with --store', {
    hint: 'an image is chunked here (--chunk-size); --caibx and --store take what casync has chunked already',
  });
}

async function readIndex(path: string): Promise<ChunkIndex> {
  return ChunkIndex.decode(await readFileBounded(path, MAX_INDEX_BYTES));
}

export function openStore(path: string): Promise<DirectoryStore> {
  return DirectoryStore.open(path);
}

function sinkOf(origin: OriginClient): ChunkSink {
  return {
    missing: (ids, signal) => origin.bytes('/api/v1/chunks/missing', { method: 'POST', bytes: ids, signal }),
    put: async (batch, signal) => {
      await origin.bytes('/api/v1/chunks', { method: 'POST', bytes: batch, signal });
    },
  };
}

function describe({
  lengthBytes,
  sha256,
  index,
  sentChunks,
  sentBytes,
}: ImageSummary & UploadCounts): UploadedImage {
  return {
    lengthBytes,
    sha256: sha256.toString('hex'),
    chunks: index.count,
    newChunks: sentChunks,
    sentBytes,
    index: index.encode(),
  };
}
