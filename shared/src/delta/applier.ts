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

/** Bounds of the thread's JavaScript heap. Base, patch and target lie outside of it. */
const RESOURCE_LIMITS = { maxOldGenerationSizeMb: 24, maxYoungGenerationSizeMb: 2, stackSizeMb: 2 };

/** How often the CPU time of the running patch is checked. */
const CHECK_MS = 100;

/** Names of the encoders that recipes may ask for and that are installed here. */
export function applicableEncoders(): string[] {
  return PIECE_CODECS.filter(codec => codec.isInstalled()).map(({ name }) => name);
}

interface Application {
  /** The patch's bytes. Bytes in `patchMemory` aren't copied; others are. */
  readonly patch: Uint8Array;
  /** The window's whole base range. Any part of `baseMemory` isn't copied; other bytes are. It may be overwritten. */
  readonly base: Uint8Array;
  readonly targetLength: number;
  /** The CPU time that the patch may take, in milliseconds; checked every 0.1 seconds. */
  readonly maxMs: number;
  readonly signal?: AbortSignal;
}

interface Applied {
  /** Exactly `targetLength` bytes of the applier's memory, there until the next patch is applied or `close` is called. */
  readonly bytes: Uint8Array;
  readonly cpuMs: number;
}

/** The patch that is being applied, and who waits for it. */
interface Run {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Applies patches in a worker thread, one after the other. The thread is ended where a patch takes too much time or memory. Base, patch and
 * target lie in memory that both threads share: 19 MiB in all, of which the system provides only the pages that are touched.
 *
 * Thread and memory stay from the first patch until `close`. A thread whose codecs leak memory (`PieceCodec.wearsThread`) is ended after
 * its patch.
 */
export class PatchApplier {
  /** Names of the encoders that windows may need here. */
  readonly encoders: readonly string[] = applicableEncoders();
  #sharedMemory: ApplyBuffers | undefined;
  #thread: ApplyThread | undefined;
  /** Modules that an earlier thread has compiled, so that the next one needn't. */
  #compiled: object | undefined;

  /**
   * Memory for a base range. What is read into it isn't copied again.
   * @param lengthBytes MAX_BASE_MEMORY_BYTES at the most, so that the whole chunks in which the range lies fit
   */
  baseMemory(lengthBytes: number): Uint8Array {
    return new Uint8Array(this.#shared.base, 0, lengthBytes);
  }

  /** Memory for a patch. What is read into it isn't copied again. */
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
   * Makes the bytes of one window. The caller waits for the answer before the next call.
   * @throws SITECAST_PATCH_TIME where it takes longer than `maxMs`; SITECAST_PATCH_WORKER where the thread dies, for example because it
   * needs too much memory; what `applyPatch` throws. All of them have `data.cpuMs`. @throws the signal's reason
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
      // The memory may be used again only after the thread has ended: until then it could still write there.
      if (thread.isWorn) await this.#endThread();
    }
  }

  /** Ends the thread and releases the memory. The next patch starts another thread. */
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
  /** True where the thread must be ended: it has failed, or holds memory that it can't release. */
  isWorn = false;
  /** Modules that this thread has compiled, for the next thread. */
  compiled: object | undefined;
  readonly #worker: Worker;
  /** The file that counts the thread's CPU time: undefined until the thread has named it, empty on a system without such a file. */
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

  /**
   * CPU time that the thread has taken since its start, in milliseconds. Where the system doesn't count it: the time that its event loop
   * was busy.
   */
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

  /** Ends the running patch with this error. The thread isn't used again. */
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
