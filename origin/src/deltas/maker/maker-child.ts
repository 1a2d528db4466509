import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { setPriority } from 'node:os';
import { sleep } from '@sitecast/shared/async';
import { builtModule } from '@sitecast/shared/built-module';
import { SitecastError } from '@sitecast/shared/errors';
import {
  type MakerMessage,
  type MakerReply,
  type MakerResults,
  type MakerTask,
  MAX_PART_BYTES,
  type WantedPart,
} from './tasks.ts';

/** The heap for JavaScript objects. Images' bytes and suffix arrays lie outside of it, and are bounded by the size of a window. */
const MAX_HEAP_MIB = 256;
/** The bound for the whole process, well above what the largest window needs. A process that exceeds it is ended. */
const MAX_RESIDENT_BYTES = 1024 * 1024 * 1024;
const LOOK_AT_MEMORY_EVERY_MS = 250;

/** Makes glibc map long buffers one by one, so that each is returned to the system as soon as it is freed. */
const MALLOC = { MALLOC_MMAP_THRESHOLD_: String(1024 * 1024) };

/** The process exceeded a bound and was ended. Its samples are lost. */
export class BoundPassed extends Error {}

/** The task took too long. */
export class DeadlinePassed extends BoundPassed {}

/** The process took too much memory. */
class MemoryPassed extends BoundPassed {}

/** Reads the part that the process wants of its task's image. */
type ReadPart = (offset: number, length: number) => Promise<Uint8Array>;

/**
 * The process that makes deltas, at a low priority. It is ended where a task takes too long; the next task starts a new one.
 */
export class MakerChild {
  #child: ChildProcess | undefined;
  readonly #niceness: number;
  readonly #maxResidentBytes: number;

  /** @param niceness 0 to 19 */
  constructor(niceness: number, maxResidentBytes = MAX_RESIDENT_BYTES) {
    this.#niceness = niceness;
    this.#maxResidentBytes = maxResidentBytes;
  }

  /**
   * Carries out one task. The caller waits for its result before the next call.
   * @param read for tasks that need parts of an image. The process's requests are checked, because it parses a publisher's bytes
   * @throws BoundPassed; SITECAST_WORKER_FAILED where the process ended by itself or the task failed; the signal's reason
   */
  async ask<Name extends MakerTask['name']>(
    task: MakerTask & { name: Name },
    deadlineMs: number,
    signal?: AbortSignal,
    read?: ReadPart,
  ): Promise<MakerResults[Name]> {
    signal?.throwIfAborted();
    const child = (this.#child ??= start(this.#niceness));
    const ended = new AbortController();
    const abort = signal === undefined ? ended.signal : AbortSignal.any([ended.signal, signal]);
    try {
      const reply = await Promise.race([
        answered(child, task, { abort, read }),
        exit(child, abort),
        tooLarge(child, this.#maxResidentBytes, abort),
        deadline(deadlineMs, abort),
      ]);
      if ('error' in reply) throw failed(reply.error);
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the process answers each task by its name: see `carryOut`
      return reply.result as MakerResults[Name];
    } catch (error) {
      if (!(error instanceof SitecastError) || hasEnded(child)) await this.end();
      signal?.throwIfAborted();
      throw error;
    } finally {
      ended.abort();
    }
  }

  /** Ends the process, even in a task. */
  async end(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || hasEnded(child)) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }
}

/** Whether it ended by itself, or by a signal, such as that of the system when memory runs out. */
function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

function start(niceness: number): ChildProcess {
  const child = fork(builtModule(import.meta.url, 'maker-process'), {
    serialization: 'advanced',
    execArgv: [`--max-old-space-size=${MAX_HEAP_MIB}`],
    env: MALLOC,
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  try {
    if (child.pid !== undefined) setPriority(child.pid, niceness);
  } catch {
    // It has ended already. The first task will notice.
  }
  // Without a listener, a failed `send` would end this process. `exit` ends the task.
  child.on('error', () => undefined);
  return child;
}

type Answer = Exclude<MakerReply, { wanted: WantedPart }>;

async function answered(
  child: ChildProcess,
  task: MakerTask,
  { abort, read }: { abort: AbortSignal; read: ReadPart | undefined },
): Promise<Answer> {
  let message: MakerMessage = task;
  for (;;) {
    const reply = await exchange(child, message, abort);
    if (!('wanted' in reply)) return reply;
    const { offset, length } = reply.wanted;
    const isSane = [offset, length].every(number => Number.isSafeInteger(number) && number >= 0);
    if (!read || !isSane || length > MAX_PART_BYTES) throw failed('it wants what it may not');
    message = { name: 'part', bytes: await read(offset, length) };
    abort.throwIfAborted();
  }
}

async function exchange(child: ChildProcess, message: MakerMessage, abort: AbortSignal): Promise<MakerReply> {
  const replied = once(child, 'message', { signal: abort });
  child.send(message, () => undefined);
  const [reply]: MakerReply[] = await replied;
  if (reply === undefined) throw failed('it sent nothing');
  return reply;
}

async function exit(child: ChildProcess, signal: AbortSignal): Promise<never> {
  if (!hasEnded(child)) await once(child, 'exit', { signal });
  throw failed(`it ended with ${child.signalCode ?? child.exitCode}`);
}

/** Resolves when the process takes too much memory. Where the system doesn't tell, only its heap is bounded. */
async function tooLarge(child: ChildProcess, maxBytes: number, signal: AbortSignal): Promise<never> {
  for (;;) {
    const text = await readFile(`/proc/${child.pid}/status`, 'utf8').catch(() => '');
    const residentBytes = 1024 * Number(/^VmRSS:\s+(\d+) kB$/m.exec(text)?.[1] ?? 0);
    if (residentBytes > maxBytes)
      throw new MemoryPassed(`it took ${residentBytes} bytes of memory, at most ${maxBytes}`);
    await sleep(LOOK_AT_MEMORY_EVERY_MS, signal);
    signal.throwIfAborted();
  }
}

function deadline(ms: number, signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const timer = setTimeout(() => reject(new DeadlinePassed(`no result after ${ms} ms`)), ms);
    signal.addEventListener('abort', () => clearTimeout(timer), { once: true });
  });
}

export function failed(what: string): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_WORKER_FAILED',
    `the process that makes deltas failed: ${what}`,
  );
}
