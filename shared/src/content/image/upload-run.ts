import { BATCH_HEAD_BYTES } from '../batch.ts';
import { CHUNK_ID_BYTES, countIds, eachId } from '../chunk-id.ts';
import { ChunkIdSet } from '../chunk-id-set.ts';
import { MAX_FRAME_BYTES } from '../limits.ts';
import { maxFrameBytes } from '../zstd.ts';
import { BufferPool } from './buffer-pool.ts';
import { FrameWorkers, type FrameWorkersOptions } from './frame-workers.ts';

/** Where an upload goes: over HTTP to an origin, or into a store. */
export interface ChunkSink {
  /**
   * @param ids at most MAX_MISSING_IDS of 32 bytes each
   * @returns those of them that the other side lacks
   */
  missing(ids: Buffer, signal: AbortSignal): Promise<Uint8Array>;
  /**
   * Hands over a batch (as `decodeBatch` takes it apart), at most MAX_BATCH_BYTES. The bytes may be overwritten as soon as
   * the promise settles.
   */
  put(batch: Buffer, signal: AbortSignal): Promise<void>;
}

export interface UploadProgress {
  /** Length of the image; unknown for a block device. */
  readonly lengthBytes: number | undefined;
  /** How much of the image is at the target, what it had before included. */
  readonly doneBytes: number;
  /** Bytes of frames that were sent. */
  readonly sentBytes: number;
}

export interface UploadOptions {
  readonly target: ChunkSink;
  /** zstd level, MIN_ZSTD_LEVEL to MAX_ZSTD_LEVEL. */
  readonly level?: number;
  /** Most threads that compress at once. */
  readonly threads?: number;
  /** Plain bytes in one batch, about: the longest chunk to 4 MiB (the default). Less for a thin link. */
  readonly batchBytes?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: UploadProgress) => void;
}

/** What went over the wire. */
export interface UploadCounts {
  readonly sentChunks: number;
  readonly sentBytes: number;
  /** Chunks, each counted once, that the target had before. */
  readonly knownChunks: number;
}

/** Batches that are asked about, compressed and sent while the next ones are read. */
const BATCHES_BESIDE_THREADS = 2;

interface RunSizes {
  readonly blockBytes: number;
  /** Most plain bytes and most chunks in one batch. */
  readonly batchPlainBytes: number;
  readonly batchChunks: number;
  readonly lengthBytes: number | undefined;
}

/**
 * One upload: its worker threads, its fixed memory, its batches under way, and their first failure, which stops all.
 */
export class UploadRun {
  readonly blocks: BufferPool;
  readonly bodies: BufferPool;
  readonly workers: FrameWorkers;
  readonly target: ChunkSink;
  /** Aborts with the first failure, or with the caller's reason. */
  readonly signal: AbortSignal;
  readonly #stop = new AbortController();
  readonly #underWay = new Set<Promise<void>>();
  readonly #seen = new ChunkIdSet();
  readonly #lengthBytes: number | undefined;
  readonly #onProgress: ((progress: UploadProgress) => void) | undefined;
  #doneBytes = 0;
  #sentBytes = 0;
  #sentChunks = 0;

  constructor(options: UploadOptions & Pick<FrameWorkersOptions, 'storeRoot'>, sizes: RunSizes) {
    this.workers = new FrameWorkers(options);
    const batches = this.workers.threads + BATCHES_BESIDE_THREADS;
    this.blocks = new BufferPool(batches + 1, sizes.blockBytes);
    this.bodies = new BufferPool(batches, bodyBytes(sizes));
    this.target = options.target;
    this.#lengthBytes = sizes.lengthBytes;
    this.#onProgress = options.onProgress;
    this.signal =
      options.signal === undefined ? this.#stop.signal : AbortSignal.any([this.#stop.signal, options.signal]);
  }

  /** Lets a batch go its way beside the others; how it ends is heard in `finished` and by the signal. */
  start(send: () => Promise<void>): void {
    const sending = send().catch((error: unknown) => this.#stop.abort(error));
    this.#underWay.add(sending);
    void sending.finally(() => this.#underWay.delete(sending));
  }

  /** Waits for all batches under way. @throws the first failure */
  async finished(): Promise<UploadCounts> {
    await Promise.all(this.#underWay);
    this.signal.throwIfAborted();
    return {
      sentChunks: this.#sentChunks,
      sentBytes: this.#sentBytes,
      knownChunks: this.#seen.size - this.#sentChunks,
    };
  }

  /** Ends what is still under way, and the threads. */
  async close(): Promise<void> {
    this.#stop.abort(new Error('the upload has ended'));
    await this.workers.close();
    await Promise.all(this.#underWay);
  }

  /**
   * Which chunks of a batch are to be sent: those the target lacks and that no batch before this one has taken on.
   * @returns for each chunk 1 or 0
   */
  async wanted(ids: Buffer): Promise<Uint8Array> {
    const flags = new Uint8Array(countIds(ids));
    const fresh: Uint8Array[] = [];
    for (const [at, id] of [...eachId(ids)].entries()) {
      if (!this.#seen.add(id)) continue;
      fresh.push(id);
      flags[at] = 1;
    }
    if (fresh.length === 0) return flags;
    const missing = new ChunkIdSet();
    const answer = await this.target.missing(
      Buffer.concat(fresh, fresh.length * CHUNK_ID_BYTES),
      this.signal,
    );
    for (const id of eachId(answer)) missing.add(id);
    for (const [at, id] of [...eachId(ids)].entries()) if (!missing.has(id)) flags[at] = 0;
    return flags;
  }

  /** Sends a batch, gives its memory back, and counts it. */
  async send(body: ArrayBuffer, batchBytes: number, chunks: number): Promise<void> {
    if (chunks > 0) await this.target.put(Buffer.from(body, 0, batchBytes), this.signal);
    this.bodies.release(body);
    this.#sentChunks += chunks;
    this.#sentBytes += batchBytes - chunks * BATCH_HEAD_BYTES;
  }

  /** So much more of the image is at the target. */
  done(plainBytes: number): void {
    this.#doneBytes += plainBytes;
    this.#onProgress?.({
      lengthBytes: this.#lengthBytes,
      doneBytes: this.#doneBytes,
      sentBytes: this.#sentBytes,
    });
  }
}

/** Room for the frames of one batch, and for one more that is being read. */
function bodyBytes({ batchPlainBytes, batchChunks }: RunSizes): number {
  const headsAndFrames = batchChunks * (BATCH_HEAD_BYTES + maxFrameBytes(0)) + maxFrameBytes(batchPlainBytes);
  return headsAndFrames + MAX_FRAME_BYTES + 1;
}
