import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { peakRssOf } from './process-status.ts';

export interface Spent {
  readonly wallMs: number;
  readonly cpuMs: number;
}

/** Runs a program to its end. @throws when it fails or isn't there */
export async function timeProgram(program: string, ...args: string[]): Promise<Spent> {
  // Node has no rusage of child processes. The second line of the shell's `times` is that of the shell's children.
  const script = `"$@" >/dev/null || exit 1; times`;
  const startedAt = performance.now();
  const child = spawn('bash', ['-c', script, 'bash', program, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let out = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text));
  const [exitCode]: (number | null)[] = await once(child, 'close');
  if (exitCode !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${exitCode}`);
  const cpuMs = [...out.matchAll(/(\d+)m([\d.]+)s/g)]
    .slice(2)
    .reduce((sum, [, minutes, seconds]) => sum + Number(minutes) * 60_000 + Number(seconds) * 1000, 0);
  return { wallMs: performance.now() - startedAt, cpuMs };
}

/** Starts one of the benchmark's own scripts, beside this file, as a process with a message channel. */
export function startScript(name: string, ...args: string[]): ChildProcess {
  return fork(new URL(`./${name}.js`, import.meta.url), args);
}

/** The next message that a started script sends. @throws when it ends instead */
export async function nextMessage<T>(child: ChildProcess): Promise<T> {
  const stop = new AbortController();
  const message = async (): Promise<T> => {
    const messages: T[] = await once(child, 'message', { signal: stop.signal });
    for (const first of messages) return first;
    throw new Error('a message without content');
  };
  const exit = async (): Promise<T> => {
    await once(child, 'exit', { signal: stop.signal });
    throw new Error('the process ended before it answered');
  };
  try {
    return await Promise.race([message(), exit()]);
  } finally {
    stop.abort();
  }
}

/** Peak resident memory of this process so far, in bytes. */
export function peakRssBytes(): Promise<number> {
  return processPeakRssBytes('self');
}

/** Peak resident memory of a running process so far, in bytes. */
export async function processPeakRssBytes(pid: number | 'self'): Promise<number> {
  return peakRssOf(await readFile(`/proc/${pid}/status`, 'utf8'));
}

/** Resident memory of a running process now, in bytes. */
export async function processRssBytes(pid: number): Promise<number> {
  return Number(/VmRSS:\s+(\d+) kB/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
}

const CLOCK_TICKS_PER_S = 100;

/** CPU time that a running process has used so far. */
export async function processCpuMs(pid: number): Promise<number> {
  // After the name in parentheses, which may have spaces: state is field 3, utime and stime are 14 and 15.
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).replace(/^.*\) /, '').split(' ');
  return ((Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS_PER_S) * 1000;
}
