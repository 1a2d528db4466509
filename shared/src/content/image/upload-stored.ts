import { createHash, type Hash } from 'node:crypto';
import { CHUNK_ID_BYTES } from '../chunk-id.ts';
import type { ChunkIndex } from '../chunk-index.ts';
import { MAX_CHUNK_BYTES, MAX_MISSING_IDS } from '../limits.ts';
import type { DirectoryStore } from '../store/directory-store.ts';
import { type ImageSummary, MAX_READ_BYTES } from './image-reader.ts';
import { type UploadCounts, type UploadOptions, UploadRun } from './upload-run.ts';

export interface UploadStoredOptions extends UploadOptions {
  readonly index: ChunkIndex;
  /** Holds every chunk of the index, as `casync make` leaves them. */
  readonly store: DirectoryStore;
}

/** A run of the index's chunks: `from` up to and without `to`. */
interface Stretch {
  readonly from: number;
  readonly to: number;
  readonly plainBytes: number;
}

/**
 * Sends an image that is chunked and compressed already. Every chunk is decompressed and verified, for the image's
 * SHA-256 too; the frames that the target lacks go out as they are.
 * @throws SITECAST_CHUNK_NOT_FOUND, SITECAST_CHUNK_MISMATCH, SITECAST_ZSTD_LEVEL, what the target throws, the signal's
 *   reason
 */
export async function uploadStored(options: UploadStoredOptions): Promise<ImageSummary & UploadCounts> {
  const { index, store, batchBytes = MAX_READ_BYTES } = options;
  const run = new UploadRun(
    { ...options, storeRoot: store.root },
    {
      blockBytes: batchBytes + MAX_CHUNK_BYTES,
      batchPlainBytes: batchBytes + MAX_CHUNK_BYTES,
      batchChunks: MAX_MISSING_IDS,
      lengthBytes: index.lengthBytes,
    },
  );
  const hash = createHash('sha256');
  try {
    let hashed = Promise.resolve();
    for (const stretch of stretchesOf(index, batchBytes)) {
      const block = await run.blocks.acquire(run.signal);
      const turn = hashed;
      hashed = new Promise(resolve => {
        run.start(() => sendStretch(run, index, stretch, block, turn, hash).finally(resolve));
      });
    }
    const counts = await run.finished();
    return { lengthBytes: index.lengthBytes, sha256: hash.digest(), index, ...counts };
  } finally {
    await run.close();
  }
}

async function sendStretch(
  run: UploadRun,
  index: ChunkIndex,
  stretch: Stretch,
  block: ArrayBuffer,
  turn: Promise<void>,
  hash: Hash,
): Promise<void> {
  const { ids, lengths } = listOf(index, stretch);
  const wanted = await run.wanted(ids);
  const body = await run.bodies.acquire(run.signal);
  const made = await run.workers.run({ kind: 'collect', block, body, ids, lengths, wanted });
  // Hashed in the image's order, whichever thread was first.
  const hashInTurn = turn.then(() => {
    hash.update(new Uint8Array(made.block, 0, stretch.plainBytes));
    run.blocks.release(made.block);
  });
  await Promise.all([run.send(made.body, made.batchBytes, wanted), hashInTurn]);
  run.done(stretch.plainBytes);
}

function* stretchesOf(index: ChunkIndex, batchBytes: number): Generator<Stretch> {
  let from = 0;
  let plainBytes = 0;
  for (let at = 0; at < index.count; at++) {
    plainBytes += index.lengthOf(at);
    if (plainBytes < batchBytes && at + 1 - from < MAX_MISSING_IDS && at + 1 < index.count) continue;
    yield { from, to: at + 1, plainBytes };
    from = at + 1;
    plainBytes = 0;
  }
}

function listOf(index: ChunkIndex, { from, to }: Stretch): { ids: Buffer; lengths: Uint32Array } {
  const ids = Buffer.allocUnsafe((to - from) * CHUNK_ID_BYTES);
  const lengths = new Uint32Array(to - from);
  for (let at = from; at < to; at++) {
    ids.set(index.idAt(at), (at - from) * CHUNK_ID_BYTES);
    lengths[at - from] = index.lengthOf(at);
  }
  return { ids, lengths };
}
