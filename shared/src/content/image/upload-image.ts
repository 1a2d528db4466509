import { CHUNK_ID_BYTES } from '../chunk-id.ts';
import type { ChunkSizes } from '../chunk-index.ts';
import { DEFAULT_CHUNK_SIZES } from '../chunking/fastcdc.ts';
import { type ImageBatch, ImageReader, type ImageSummary } from './image-reader.ts';
import { type UploadCounts, type UploadOptions, UploadRun } from './upload-run.ts';

export interface UploadImageOptions extends UploadOptions {
  /** A regular file or a block device. */
  readonly path: string;
  readonly sizes?: ChunkSizes;
}

/**
 * Reads an image, cuts it into chunks and sends those that the target lacks, each once. Reading, asking, compressing and
 * sending overlap; the memory is fixed. Broken off and begun again, it sends only what isn't there yet.
 * @throws SITECAST_IMAGE_EMPTY, SITECAST_IMAGE_CHANGED, SITECAST_NOT_A_FILE, SITECAST_CHUNK_SIZES, SITECAST_ZSTD_LEVEL,
 *   SITECAST_INDEX_TOO_LARGE, what the target throws, the signal's reason
 */
export async function uploadImage(options: UploadImageOptions): Promise<ImageSummary & UploadCounts> {
  const sizes = options.sizes ?? DEFAULT_CHUNK_SIZES;
  const reader = await ImageReader.open(options.path, sizes, options.batchBytes);
  const { blockBytes } = reader;
  let run: UploadRun | undefined;
  try {
    run = new UploadRun(options, {
      blockBytes,
      batchPlainBytes: blockBytes,
      batchChunks: Math.ceil(blockBytes / sizes.minBytes) + 1,
      lengthBytes: reader.lengthBytes,
    });
    const upload = run;
    for await (const batch of reader.batches(upload.blocks, upload.signal)) {
      upload.start(() => sendBatch(upload, batch));
    }
    const counts = await upload.finished();
    return { ...reader.summary(), ...counts };
  } finally {
    await run?.close();
    await reader.close();
  }
}

async function sendBatch(run: UploadRun, batch: ImageBatch): Promise<void> {
  const plainBytes = batch.bytes.length;
  const wanted = await run.wanted(batch.ids);
  const { bounds, ids } = select(batch, wanted);
  if (ids.length === 0) {
    run.blocks.release(batch.block);
  } else {
    const body = await run.bodies.acquire(run.signal);
    const made = await run.workers.run({ kind: 'compress', block: batch.block, body, bounds, ids });
    run.blocks.release(made.block);
    await run.send(made.body, made.batchBytes, bounds.length / 2);
  }
  run.done(plainBytes);
}

/** The wanted chunks of a batch: their bounds in its block, and their ids. */
function select({ bytes, ends, ids }: ImageBatch, wanted: Uint8Array): { bounds: Uint32Array; ids: Buffer } {
  const bounds: number[] = [];
  const wantedIds: Uint8Array[] = [];
  for (const [at, end] of ends.entries()) {
    if (wanted[at] === 0) continue;
    bounds.push(bytes.byteOffset + (ends[at - 1] ?? 0), bytes.byteOffset + end);
    wantedIds.push(ids.subarray(at * CHUNK_ID_BYTES, (at + 1) * CHUNK_ID_BYTES));
  }
  return { bounds: Uint32Array.from(bounds), ids: Buffer.concat(wantedIds) };
}
