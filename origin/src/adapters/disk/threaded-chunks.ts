import { Worker } from 'node:worker_threads';
import { builtModule, endThread, THREAD_LIMITS } from '@sitecast/shared/built-module';
import { CHUNK_ID_BYTES } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import type { Inspection } from '../../repository/repository-store.ts';
import type { ChunkList, ChunkState, StagedTotals, StageOutcome } from '../../staging/ports.ts';
import type { LocalChunks } from './chunks.ts';
import type { ChunkReply, ChunkResults, ChunkTask, ChunkThreadData, ThreadError } from './chunk-tasks.ts';

/** Chunks in one message, so that uploads get their turn between the messages of a long check. */
const MAX_CHUNKS_A_TASK = 512;
/** The same if each is read from the disk: 16 MiB at the most. */
const MAX_CHUNKS_AN_INSPECTION = 16;
/** The thread makes little garbage besides the map of staged chunks. */
const YOUNG_GENERATION_MB = 8;

interface Job<N extends keyof ChunkResults = keyof ChunkResults> {
  settle(reply: ChunkReply<N>): void;
  reject(error: unknown): void;
}

/** Works on chunks in a thread. If the thread dies, the calls under way fail, and the next call starts another thread. */
export class ThreadedChunks implements LocalChunks {
  readonly #data: ChunkThreadData;
  #thread: Worker | undefined;
  /** Replies come in the order of the calls. */
  #jobs: Job[] = [];

  private constructor(data: ChunkThreadData) {
    this.#data = data;
  }

  /** Resolves when the thread has looked through what is staged. */
  static async open(data: ChunkThreadData): Promise<ThreadedChunks> {
    const chunks = new ThreadedChunks(data);
    await chunks.totals();
    return chunks;
  }

  async missing(ids: Uint8Array): Promise<Uint8Array> {
    return Buffer.concat(await this.#inParts(ids, part => this.#call({ name: 'missing', ids: part })));
  }

  async stage(batch: ArrayBuffer, lengthBytes: number): Promise<StageOutcome> {
    const outcome = await this.#call({ name: 'stage', batch, lengthBytes }, [batch]);
    return { ...outcome, error: outcome.error && revived(outcome.error) };
  }

  async check({ ids, lengths }: ChunkList): Promise<ChunkState[]> {
    const states = await this.#inParts(ids, (part, from) => {
      const list = { ids: part, lengths: lengths.slice(from, from + part.length / CHUNK_ID_BYTES) };
      return this.#call({ name: 'check', list });
    });
    return states.flat();
  }

  async unpublished(ids: Uint8Array): Promise<Uint8Array> {
    return Buffer.concat(await this.#inParts(ids, part => this.#call({ name: 'unpublished', ids: part })));
  }

  async inspect(ids: Uint8Array): Promise<Inspection> {
    const parts = await this.#inParts(
      ids,
      part => this.#call({ name: 'inspect', ids: part }),
      MAX_CHUNKS_AN_INSPECTION,
    );
    return {
      readBytes: parts.reduce((sum, { readBytes }) => sum + readBytes, 0),
      damaged: Buffer.concat(parts.map(({ damaged }) => damaged)),
    };
  }

  async repairs(ids: Uint8Array): Promise<Uint8Array> {
    return Buffer.concat(await this.#inParts(ids, part => this.#call({ name: 'repairs', ids: part })));
  }

  async publish(ids: Uint8Array): Promise<void> {
    await this.#inParts(ids, part => this.#call({ name: 'publish', ids: part }));
  }

  async unpublish(ids: Uint8Array): Promise<void> {
    await this.#inParts(ids, part => this.#call({ name: 'unpublish', ids: part }));
  }

  prune(beforeMs: number): Promise<number> {
    return this.#call({ name: 'prune', beforeMs });
  }

  async removeUnused(ids: Uint8Array, beforeMs: number): Promise<number> {
    const counts = await this.#inParts(ids, part =>
      this.#call({ name: 'removeUnused', ids: part, beforeMs }),
    );
    return counts.reduce((sum, count) => sum + count, 0);
  }

  totals(): Promise<StagedTotals> {
    return this.#call({ name: 'totals' });
  }

  async close(): Promise<void> {
    const thread = this.#thread;
    this.#fail(new SitecastError('failed', 'SITECAST_WORKER_FAILED', 'the origin is being stopped'));
    if (thread) await endThread(thread);
  }

  async #inParts<T>(
    ids: Uint8Array,
    act: (part: Uint8Array, from: number) => Promise<T>,
    maxChunks = MAX_CHUNKS_A_TASK,
  ): Promise<T[]> {
    const results: T[] = [];
    const count = ids.length / CHUNK_ID_BYTES;
    for (let from = 0; from < count; from += maxChunks) {
      // A copy: a view would take the whole buffer behind it along to the thread.
      const part = ids.slice(from * CHUNK_ID_BYTES, (from + maxChunks) * CHUNK_ID_BYTES);
      results.push(await act(new Uint8Array(part), from));
    }
    return results;
  }

  #call<N extends keyof ChunkResults>(
    task: ChunkTask & { name: N },
    moved: ArrayBuffer[] = [],
  ): Promise<ChunkResults[N]> {
    const thread = (this.#thread ??= this.#start());
    return new Promise((resolve, reject) => {
      const job: Job<N> = {
        reject,
        settle: reply => {
          if ('error' in reply) reject(revived(reply.error));
          else resolve(reply.result);
        },
      };
      this.#jobs.push(job);
      thread.postMessage(task, moved);
    });
  }

  #start(): Worker {
    const thread = new Worker(builtModule(import.meta.url, 'chunk-thread'), {
      workerData: this.#data,
      execArgv: [],
      resourceLimits: { ...THREAD_LIMITS, maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
    });
    thread.on('message', (reply: ChunkReply) => this.#jobs.shift()?.settle(reply));
    thread.on('error', cause => {
      if (thread !== this.#thread) return;
      this.#fail(new SitecastError('failed', 'SITECAST_WORKER_FAILED', 'the chunk thread died', { cause }));
    });
    return thread;
  }

  #fail(error: SitecastError): void {
    this.#thread = undefined;
    const jobs = this.#jobs;
    this.#jobs = [];
    for (const job of jobs) job.reject(error);
  }
}

function revived({ kind, code, message, hint, data }: ThreadError): SitecastError {
  return new SitecastError(kind, code, message, hint === undefined ? { data } : { data, hint });
}
