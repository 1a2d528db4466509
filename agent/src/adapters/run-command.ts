import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { decodeTail } from '@sitecast/shared/text';
import type { CommandOutcome, RunCommand } from '../ports.ts';

/** How many bytes of the end of a command's output are kept, for each stream and for both together. */
const MAX_OUTPUT_BYTES = 8 * 1024;
/** How long after asking a command to end it is killed, in ms. */
const GRACE_MS = 5000;
/** In ms. A process that hangs in the kernel, for example on a dead disk, doesn't end by SIGKILL. It isn't waited for any longer. */
const UNKILLABLE_MS = 2000;
/** In ms: how long the last output of a command may take to arrive after its end. */
const LAST_OUTPUT_MS = 250;

type Child = ChildProcessByStdio<null, Readable, Readable>;

/**
 * Runs a command line with `sh -c`, in a process group of its own. When it ends, times out, or is aborted, the whole group is ended, so
 * that no process stays behind. With `mayLeave`, processes that the command has started go on if it ends with 0 or is aborted.
 */
export const runCommand: RunCommand = async (command, { env, timeoutMs, signal, mayLeave = false }) => {
  signal?.throwIfAborted();
  const child: Child = spawn('sh', ['-c', command], {
    detached: true,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const kept = keepOutput(child);
  const ending = new Ending(child);
  let isTimedOut = false;
  const timer = setTimeout(() => {
    isTimedOut = true;
    ending.begin();
  }, timeoutMs);
  const onAbort = () => (mayLeave ? ending.giveUp() : ending.begin());
  signal?.addEventListener('abort', onAbort, { once: true });
  let isLeft = false;
  try {
    await Promise.race([untilEnd(child), ending.isGivenUp]);
    isLeft = mayLeave && !isTimedOut && (child.exitCode === 0 || signal?.aborted === true);
    signal?.throwIfAborted();
    return { exitCode: child.exitCode, isTimedOut, ...kept() };
  } finally {
    clearTimeout(timer);
    ending.clear();
    signal?.removeEventListener('abort', onAbort);
    if (isLeft) letGo(child);
    else endAll(child);
  }
};

/** Asks the group to end, then kills it, then stops waiting. */
class Ending {
  readonly #child: ChildProcess;
  readonly #timers: NodeJS.Timeout[] = [];
  readonly isGivenUp: Promise<void>;
  giveUp: () => void = () => {};

  constructor(child: ChildProcess) {
    this.#child = child;
    this.isGivenUp = new Promise(resolve => {
      this.giveUp = resolve;
    });
  }

  begin(): void {
    if (this.#timers.length > 0) return;
    endGroup(this.#child.pid, 'SIGTERM');
    this.#timers.push(
      setTimeout(() => endGroup(this.#child.pid, 'SIGKILL'), GRACE_MS),
      setTimeout(this.giveUp, GRACE_MS + UNKILLABLE_MS),
    );
  }

  clear(): void {
    for (const timer of this.#timers) clearTimeout(timer);
  }
}

function untilEnd(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', () => resolve());
    // Doesn't wait for a stream that a remaining process keeps open.
    child.once('exit', () => setTimeout(resolve, LAST_OUTPUT_MS));
  });
}

function keepOutput({ stdout, stderr }: Child): () => Pick<CommandOutcome, 'output' | 'stdout' | 'stderr'> {
  const last = { output: new Tail(), stdout: new Tail(), stderr: new Tail() };
  for (const [name, stream] of Object.entries({ stdout, stderr } as const)) {
    stream.on('data', (piece: Buffer) => {
      last[name === 'stdout' ? 'stdout' : 'stderr'].add(piece);
      last.output.add(piece);
    });
  }
  return () => ({ output: last.output.text, stdout: last.stdout.text, stderr: last.stderr.text });
}

/** The last bytes of a stream. */
class Tail {
  #bytes = Buffer.alloc(0);
  #isCut = false;

  add(piece: Buffer): void {
    const whole = Buffer.concat([this.#bytes, piece]);
    this.#isCut ||= whole.length > MAX_OUTPUT_BYTES;
    this.#bytes = whole.subarray(-MAX_OUTPUT_BYTES);
  }

  get text(): string {
    return decodeTail(this.#bytes, this.#isCut);
  }
}

function endAll({ pid, stdout, stderr }: Child): void {
  endGroup(pid, 'SIGKILL');
  stdout.destroy();
  stderr.destroy();
}

/** A process that goes on may still write, and a write to a closed pipe would end it. So the pipes are read and discarded. */
function letGo(child: Child): void {
  child.unref();
  for (const stream of [child.stdout, child.stderr]) {
    stream.removeAllListeners('data');
    stream.on('error', () => {
      // The writer has ended.
    });
    stream.resume();
    if ('unref' in stream && typeof stream.unref === 'function') stream.unref();
  }
}

function endGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // The group has no processes any more.
  }
}
