import type { ChunkSizes } from '../chunk-index.ts';
import { DEFAULT_CHUNK_SIZES } from '../chunking/fastcdc.ts';
import { type ImageBatch, ImageReader, type ImageSummary } from './image-reader.ts';
import { countWanted, type UploadCounts, type UploadOptions, UploadRun } from './upload-run.ts';

export interface UploadImageOptions extends UploadOptions {
  /** A regular file or a block device. */
  readonly path: string;
  readonly sizes?: ChunkSizes;
}

/**
 * Reads an image, cuts it into chunks and sends those that the target lacks, each once. Reading, asking, compressing and
 * sending overlap; the memory is fixed. An upload that is broken off and begun again sends only what the target lacks.
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

async function sendBatch(run: UploadRun, { block, bytes, ends, ids }: ImageBatch): Promise<void> {
  // Once the block belongs to a worker, the view is empty.
  const { byteOffset: plainAt, length: plainBytes } = bytes;
  const wanted = await run.wanted(ids);
  if (countWanted(wanted) === 0) {
    run.blocks.release(block);
  } else {
    const body = await run.bodies.acquire(run.signal);
    const made = await run.workers.run({ kind: 'compress', block, plainAt, body, ends, ids, wanted });
    run.blocks.release(made.block);
    await run.send(made.body, made.batchBytes, wanted);
  }
  run.done(plainBytes);
}
