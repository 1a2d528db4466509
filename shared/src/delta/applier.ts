import { Worker } from 'node:worker_threads';
import { builtModule, THREAD_LIMITS } from '../built-module.ts';
import { SitecastError } from '../errors.ts';
import type { ApplyBuffers, ApplyMessage, ApplyTask, ApplyThreadData } from './apply-tasks.ts';
import { BESIDE_BYTES } from './apply-memory.ts';
import { PIECE_CODECS } from './encoders/index.ts';
import {
  MAX_BASE_MEMORY_BYTES,
  MAX_PATCH_BYTES,
  MAX_WINDOW_BASE_BYTES,
  MAX_WINDOW_TARGET_BYTES,
} from './limits.ts';
import { sharedPages } from './pages.ts';
import { cpuMsOf } from './thread-cpu.ts';

/** JavaScript's own memory of the thread: what it works on lies outside. */
const RESOURCE_LIMITS = { maxOldGenerationSizeMb: 24, maxYoungGenerationSizeMb: 2, stackSizeMb: 2 };

/** How often it is looked at how much CPU time a patch has taken. */
const CHECK_MS = 100;

/** Names of the encoders that a recipe may ask for and that are installed here. */
export function applicableEncoders(): string[] {
  return PIECE_CODECS.filter(codec => codec.isInstalled()).map(({ name }) => name);
}

interface Application {
  /** Best read into `patchMemory`, which isn't copied. */
  readonly patch: Uint8Array;
  /** The window's whole base range: best read into `baseMemory`, any part of which isn't copied. Other bytes may be there afterwards. */
  readonly base: Uint8Array;
  readonly targetLength: number;
  /** CPU time that it may take, in milliseconds; looked at each 0.1 seconds. */
  readonly maxMs: number;
  readonly signal?: AbortSignal;
}

interface Applied {
  /** Exactly `targetLength` bytes of the applier's memory, there until the next patch is applied or `close` is called. */
  readonly bytes: Uint8Array;
  readonly cpuMs: number;
}

/** The patch that is being applied. */
interface Run {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Applies patches in a worker thread that is ended where a patch takes too long or too much memory, one after the other. Base, patch and
 * target lie in memory that both threads see, 19 MiB in all, which the system gives only as far as it's used.
 *
 * Both are there from the first patch on until `close`, but for a thread whose codecs wear it: it is ended after the patch.
 */
export class PatchApplier {
  /** Names of the encoders that windows may need here. */
  readonly encoders: readonly string[] = applicableEncoders();
  #sharedMemory: ApplyBuffers | undefined;
  #thread: ApplyThread | undefined;
  /** What threads have compiled: neither time nor memory is spent on it for each window. */
  #compiled: object | undefined;

  /**
   * Memory for a base range: what is read into it needs not be copied.
   * @param lengthBytes MAX_BASE_MEMORY_BYTES at the most, so that the whole chunks in which the range lies fit
   */
  baseMemory(lengthBytes: number): Uint8Array {
    return new Uint8Array(this.#shared.base, 0, lengthBytes);
  }

  /** Memory for a patch: what is read into it needs not be copied. */
  patchMemory(lengthBytes: number): Uint8Array {
    return new Uint8Array(this.#shared.patch, 0, lengthBytes);
  }

  get #shared(): ApplyBuffers {
    this.#sharedMemory ??= {
      base: sharedPages(MAX_BASE_MEMORY_BYTES),
      patch: sharedPages(MAX_PATCH_BYTES),
      target: sharedPages(Math.max(MAX_WINDOW_TARGET_BYTES, BESIDE_BYTES)),
    };
    return this.#sharedMemory;
  }

  /**
   * Makes the bytes of one window. Not to be called again before it has settled.
   * @throws SITECAST_PATCH_TIME where it takes longer than `maxMs`; SITECAST_PATCH_WORKER where the thread dies, as of too much memory;
   * what `applyPatch` throws. All of them have `data.cpuMs`. @throws the signal's reason
   */
  async apply({ patch, base, targetLength, maxMs, signal }: Application): Promise<Applied> {
    signal?.throwIfAborted();
    const baseOffset = this.#take(patch, base, targetLength);
    const thread = this.#thread ?? new ApplyThread(this.#shared, this.#compiled);
    this.#thread = thread;
    const abort = () => thread.fail(signal?.reason);
    signal?.addEventListener('abort', abort, { once: true });
    const before = thread.cpuMs();
    const timer = setInterval(() => {
      if (thread.cpuMs() - before > maxMs) thread.fail(tooLong(maxMs));
    }, CHECK_MS);
    try {
      await thread.run({ baseOffset, baseLength: base.length, patchLength: patch.length, targetLength });
      const bytes = new Uint8Array(this.#shared.target, 0, targetLength);
      return { bytes, cpuMs: thread.cpuMs() - before };
    } catch (error) {
      throw error instanceof SitecastError ? withCpuMs(error, thread.cpuMs() - before) : error;
    } finally {
      clearInterval(timer);
      signal?.removeEventListener('abort', abort);
      // Nothing writes into the memory any more once the thread has ended.
      if (thread.isWorn) await this.#endThread();
    }
  }

  /** Ends the thread, and lets go of the memory; the next patch starts another. */
  async close(): Promise<void> {
    await this.#endThread();
    this.#sharedMemory = undefined;
    this.#compiled = undefined;
  }

  async #endThread(): Promise<void> {
    const thread = this.#thread;
    this.#thread = undefined;
    this.#compiled ??= thread?.compiled;
    await thread?.end();
  }

  /** @returns where the base begins in its memory */
  #take(patch: Uint8Array, base: Uint8Array, targetLength: number): number {
    if (this.#thread?.isBusy === true) throw new Error('a patch is being applied');
    const shared = this.#shared;
    for (const [name, length, maxLength] of [
      ['base', base.length, MAX_WINDOW_BASE_BYTES],
      ['patch', patch.length, MAX_PATCH_BYTES],
      ['target', targetLength, MAX_WINDOW_TARGET_BYTES],
    ] as const)
      if (length > maxLength)
        throw new SitecastError(
          'badInput',
          'SITECAST_PATCH_LENGTH',
          `a ${name} of ${length} bytes is more than a window has`,
        );
    const isPatchThere = patch.buffer === shared.patch && patch.byteOffset === 0;
    if (!isPatchThere) this.patchMemory(patch.length).set(patch);
    if (base.buffer === shared.base) return base.byteOffset;
    this.baseMemory(base.length).set(base);
    return 0;
  }
}

/** The worker thread. */
class ApplyThread {
  /** True where it's to be ended: it has failed, or holds memory that isn't used any more. */
  isWorn = false;
  /** What the next one needs not compile again. */
  compiled: object | undefined;
  readonly #worker: Worker;
  /** Where its CPU time is counted: undefined until it says so, empty where the system has no such file. */
  #cpuFile: string | undefined;
  #cpuMs = 0;
  #run: Run | undefined;

  constructor(shared: ApplyBuffers, compiled: object | undefined) {
    const data: ApplyThreadData = { ...shared, compiled };
    this.#worker = new Worker(builtModule(import.meta.url, 'apply-worker'), {
      workerData: data,
      execArgv: [],
      resourceLimits: { ...THREAD_LIMITS, ...RESOURCE_LIMITS },
    });
    this.#worker.on('message', (message: ApplyMessage) => this.#hear(message));
    this.#worker.on('error', cause => this.fail(died(cause)));
    this.#worker.on('exit', () => this.fail(died(undefined)));
  }

  get isBusy(): boolean {
    return this.#run !== undefined;
  }

  /** CPU time that the thread has taken since its start, in milliseconds; that of its event loop where the system doesn't count it. */
  cpuMs(): number {
    if (this.#cpuFile === undefined) return 0;
    const counted =
      this.#cpuFile === '' ? this.#worker.performance.eventLoopUtilization().active : cpuMsOf(this.#cpuFile);
    this.#cpuMs = Math.max(this.#cpuMs, counted ?? 0);
    return this.#cpuMs;
  }

  run(task: ApplyTask): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#run = { resolve, reject };
      this.#worker.postMessage(task, []);
    });
  }

  /** Ends what it works on with this error; the thread isn't used any more. */
  fail(error: unknown): void {
    this.isWorn = true;
    this.#run?.reject(error);
    this.#run = undefined;
  }

  async end(): Promise<void> {
    this.fail(died(undefined));
    await this.#worker.terminate();
  }

  #hear(message: ApplyMessage): void {
    if ('cpuFile' in message) {
      this.#cpuFile = message.cpuFile ?? '';
      return;
    }
    const run = this.#run;
    this.#run = undefined;
    if (message.failure !== undefined) {
      const { kind, code, message: text } = message.failure;
      run?.reject(new SitecastError(kind, code, text));
    } else run?.resolve();
    if (message.isWorn) this.isWorn = true;
    this.compiled = message.compiled;
  }
}

function tooLong(maxMs: number): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_PATCH_TIME',
    `applying a patch takes longer than ${Math.round(maxMs)} ms of CPU time`,
  );
}

function died(cause: unknown): SitecastError {
  return new SitecastError('failed', 'SITECAST_PATCH_WORKER', 'the thread that applied a patch died', {
    cause,
  });
}

function withCpuMs({ kind, code, message, cause }: SitecastError, cpuMs: number): SitecastError {
  return new SitecastError(kind, code, message, { cause, data: { cpuMs } });
}
