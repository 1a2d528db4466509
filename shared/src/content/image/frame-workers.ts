import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { builtModule, endThread, THREAD_LIMITS } from '../../built-module.ts';
import { SitecastError } from '../../errors.ts';
import { DEFAULT_ZSTD_LEVEL, MAX_ZSTD_LEVEL, MIN_ZSTD_LEVEL } from '../zstd.ts';
import type { FrameReply, FrameTask, FrameWorkerData } from './frame-tasks.ts';

/** With more threads than this, reading and sending are slower than compressing. */
const MAX_THREADS = 8;
/** A worker makes little garbage: a small young generation keeps it from growing with the image. */
const YOUNG_GENERATION_MB = 4;
/** About what it costs to start a thread. For less work than that none is started. */
const THREAD_START_MS = 100;

export interface FrameWorkersOptions {
  /** MIN_ZSTD_LEVEL to MAX_ZSTD_LEVEL. */
  readonly level?: number;
  /** Most threads that compress at once; by default one for each processor, at most 8. */
  readonly threads?: number;
  /** The chunk store that `collect` tasks read. */
  readonly storeRoot?: string;
}

export interface FrameBatch {
  readonly block: ArrayBuffer;
  readonly body: ArrayBuffer;
  /** How much of `body` the batch fills. */
  readonly batchBytes: number;
}

interface Job {
  readonly task: FrameTask;
  readonly resolve: (batch: FrameBatch) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Makes batches of frames in worker threads. Another thread is started when much work waits: bytes that don't compress
 * need one, level 19 needs all. (docs/decisions/0012: why not a pool library.)
 */
export class FrameWorkers {
  readonly threads: number;
  readonly #workerData: FrameWorkerData;
  readonly #workers = new Map<Worker, Job | undefined>();
  readonly #queue: Job[] = [];
  /** How long the last task took a thread. */
  #taskMs = 0;
  #failure: unknown;

  /** @throws SITECAST_ZSTD_LEVEL */
  constructor(options: FrameWorkersOptions = {}) {
    const { level = DEFAULT_ZSTD_LEVEL, threads = availableParallelism(), storeRoot } = options;
    if (!Number.isInteger(level) || level < MIN_ZSTD_LEVEL || level > MAX_ZSTD_LEVEL)
      throw new SitecastError(
        'badInput',
        'SITECAST_ZSTD_LEVEL',
        `the zstd level is a whole number from ${MIN_ZSTD_LEVEL} to ${MAX_ZSTD_LEVEL}`,
        { data: { level } },
      );
    this.threads = Math.max(1, Math.min(threads, MAX_THREADS));
    this.#workerData = { level, storeRoot };
  }

  /**
   * Runs a task; its `block` and `body` belong to the worker until the promise settles, and come back with it.
   * @throws what the task is refused for; SITECAST_WORKER_FAILED when a thread died
   */
  run(task: FrameTask): Promise<FrameBatch> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ task, resolve, reject });
      this.#startNext();
    });
  }

  /** Ends the threads; tasks under way are rejected. */
  async close(): Promise<void> {
    this.#fail(new SitecastError('failed', 'SITECAST_WORKER_FAILED', 'the worker threads were ended'));
    await Promise.all([...this.#workers.keys()].map(endThread));
  }

  #startNext(): void {
    if (this.#failure !== undefined) return this.#fail(this.#failure);
    if (this.#queue.length === 0) return;
    if (this.#needsThread()) this.#start();
    const worker = this.#idle();
    if (worker === undefined) return;
    const job = this.#queue.shift();
    if (job === undefined) return;
    this.#workers.set(worker, job);
    worker.postMessage(job.task, [job.task.block, job.task.body]);
  }

  /** Starts another thread only for work that keeps it busy for longer than its start takes. */
  #needsThread(): boolean {
    if (this.#workers.size === 0) return true;
    return this.#workers.size < this.threads && this.#queue.length * this.#taskMs > THREAD_START_MS;
  }

  #idle(): Worker | undefined {
    for (const [worker, job] of this.#workers) if (job === undefined) return worker;
    return undefined;
  }

  #start(): Worker {
    const worker = new Worker(builtModule(import.meta.url, 'frame-worker'), {
      workerData: this.#workerData,
      execArgv: [],
      resourceLimits: { ...THREAD_LIMITS, maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
    });
    this.#workers.set(worker, undefined);
    worker.on('message', (reply: FrameReply) => this.#settle(worker, reply));
    worker.on('error', error =>
      this.#fail(
        new SitecastError('failed', 'SITECAST_WORKER_FAILED', 'a worker thread died', { cause: error }),
      ),
    );
    return worker;
  }

  #settle(worker: Worker, reply: FrameReply): void {
    const job = this.#workers.get(worker);
    this.#workers.set(worker, undefined);
    if ('error' in reply) {
      const { kind, code, message, data } = reply.error;
      job?.reject(new SitecastError(kind, code, message, { data }));
    } else {
      this.#taskMs = reply.workMs;
      job?.resolve(reply);
    }
    this.#startNext();
  }

  /** Rejects all tasks, those to come too: the memory that a dead thread held is lost, so the work can't go on. */
  #fail(failure: unknown): void {
    this.#failure ??= failure;
    for (const job of this.#queue.splice(0)) job.reject(this.#failure);
    for (const [worker, job] of this.#workers) {
      this.#workers.set(worker, undefined);
      job?.reject(this.#failure);
    }
  }
}
