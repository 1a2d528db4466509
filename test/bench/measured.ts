import { spawn } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { once } from 'node:events';
import { peakRssOf } from './process-status.ts';

const POLL_MS = 20;

/** Costs of a program and of all processes that it started. */
export interface Measured {
  readonly cpuMs: number;
  /** The sum of the peaks of resident memory of its processes. Each peak is the last one seen, at most 20 ms before the process ended. */
  readonly peakBytes: number;
  readonly stdout: string;
}

/** Runs a program to its end. @throws when it fails or isn't there */
export async function measure(directory: string, program: string, ...args: string[]): Promise<Measured> {
  // The second line of the shell's `times` is that of its children. `wait` makes theirs count as well.
  const child = spawn('bash', ['-c', '"$@" || exit 1; times >&3', 'bash', program, ...args], {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'inherit', 'pipe'],
  });
  let stdout = '';
  let times = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stdio[3]?.on('data', (bytes: Buffer) => (times += bytes.toString()));
  const peaks = new Map<number, number>();
  const timer = setInterval(() => void watch(child.pid ?? 0, peaks), POLL_MS);
  try {
    const [exitCode]: (number | null)[] = await once(child, 'close');
    if (exitCode !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${exitCode}`);
  } finally {
    clearInterval(timer);
  }
  const cpuMs = [...times.matchAll(/(\d+)m([\d.]+)s/g)]
    .slice(2)
    .reduce((sum, [, minutes, seconds]) => sum + Number(minutes) * 60_000 + Number(seconds) * 1000, 0);
  return { cpuMs, peakBytes: [...peaks.values()].reduce((sum, peak) => sum + peak, 0), stdout };
}

/** Notes the peaks of a process's descendants. */
async function watch(pid: number, peaks: Map<number, number>): Promise<void> {
  for (const child of await childrenOf(pid)) {
    try {
      const peak = peakRssOf(await readFile(`/proc/${child}/status`, 'utf8'));
      if (!Number.isNaN(peak)) peaks.set(child, peak);
    } catch {
      // It has ended since it was found.
    }
    await watch(child, peaks);
  }
}

async function childrenOf(pid: number): Promise<number[]> {
  try {
    const threads = await readdir(`/proc/${pid}/task`);
    const lists = await Promise.all(
      threads.map(thread => readFile(`/proc/${pid}/task/${thread}/children`, 'utf8')),
    );
    return lists.join(' ').split(' ').filter(Boolean).map(Number);
  } catch {
    // It has ended.
    return [];
  }
}
