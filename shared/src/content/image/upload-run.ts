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
const BATCHES_BESIDE_THREADS = 1;

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
    // The reader holds two more: the one it works on, and the next.
    this.blocks = new BufferPool(batches + 2, sizes.blockBytes);
    this.bodies = new BufferPool(batches, bodyBytes(sizes));
    this.target = options.target;
    this.#lengthBytes = sizes.lengthBytes;
    this.#onProgress = options.onProgress;
    this.signal =
      options.signal === undefined ? this.#stop.signal : AbortSignal.any([this.#stop.signal, options.signal]);
  }

  /** Starts a batch beside the others. Its outcome shows in `finished` and by the signal. */
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
    const fresh = Buffer.allocUnsafe(ids.length);
    let freshBytes = 0;
    for (let at = 0; at < flags.length; at++) {
      const id = ids.subarray(at * CHUNK_ID_BYTES, (at + 1) * CHUNK_ID_BYTES);
      if (!this.#seen.add(id)) continue;
      fresh.set(id, freshBytes);
      freshBytes += CHUNK_ID_BYTES;
      flags[at] = 1;
    }
    if (freshBytes === 0) return flags;
    const missing = await this.target.missing(fresh.subarray(0, freshBytes), this.signal);
    // Mostly the target lacks all of them, or none.
    if (missing.length === freshBytes) return flags;
    if (missing.length === 0) return flags.fill(0);
    return keepOnly(missing, ids, flags);
  }

  /** Sends a batch, gives its memory back, and counts it. */
  async send(body: ArrayBuffer, batchBytes: number, wanted: Uint8Array): Promise<void> {
    const chunks = countWanted(wanted);
    if (chunks > 0) await this.target.put(Buffer.from(body, 0, batchBytes), this.signal);
    this.bodies.release(body);
    this.#sentChunks += chunks;
    this.#sentBytes += batchBytes - chunks * BATCH_HEAD_BYTES;
  }

  /** This much more of the image is at the target. */
  done(plainBytes: number): void {
    this.#doneBytes += plainBytes;
    this.#onProgress?.({
      lengthBytes: this.#lengthBytes,
      doneBytes: this.#doneBytes,
      sentBytes: this.#sentBytes,
    });
  }
}

/** How many of the flags are set. */
export function countWanted(wanted: Uint8Array): number {
  let count = 0;
  for (const flag of wanted) count += flag;
  return count;
}

/** Clears the flags of the ids that aren't in the list. */
function keepOnly(list: Uint8Array, ids: Buffer, flags: Uint8Array): Uint8Array {
  const listed = new ChunkIdSet();
  for (const id of eachId(list)) listed.add(id);
  let at = 0;
  for (const id of eachId(ids)) {
    if (!listed.has(id)) flags[at] = 0;
    at += 1;
  }
  return flags;
}

/** Room for the frames of one batch, and for one more that is being read. */
function bodyBytes({ batchPlainBytes, batchChunks }: RunSizes): number {
  const headsAndFrames = batchChunks * (BATCH_HEAD_BYTES + maxFrameBytes(0)) + maxFrameBytes(batchPlainBytes);
  return headsAndFrames + MAX_FRAME_BYTES + 1;
}
