import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';

export interface Spent {
  readonly wallMs: number;
  readonly cpuMs: number;
}

/** Runs a program to its end. @throws when it fails or isn't there */
export async function timeProgram(program: string, ...args: string[]): Promise<Spent> {
  // Node has no rusage of its children; the second line of the shell's `times` is that of the shell's.
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

/** Starts one of the benchmark's own scripts, beside this file, as a process that speaks by messages. */
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
export async function peakRssBytes(): Promise<number> {
  // resourceUsage().maxRSS starts with the parent's value on Linux, which a fork inherits; VmHWM is this process's own.
  const status = await readFile('/proc/self/status', 'utf8');
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
}
