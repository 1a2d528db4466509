import { spawn } from 'node:child_process';
import { decodeTail } from '@sitecast/shared/text';
import type { CommandOutcome, RunCommand } from '../ports.ts';

/** The last of a command's output that is kept, in bytes. */
const MAX_OUTPUT_BYTES = 8 * 1024;
/** Between asking a command to end and ending it. */
const GRACE_MS = 5000;
/** How long a command's last output may be on its way after its end. */
const LAST_OUTPUT_MS = 250;

/**
 * Runs a command line by `sh -c`, in a process group of its own; at the end, or out of time, the whole group is ended,
 * so that nothing it started stays behind.
 */
export const runCommand: RunCommand = (command, { env, timeoutMs, signal }) =>
  new Promise<CommandOutcome>((resolve, reject) => {
    const child = spawn('sh', ['-c', command], {
      detached: true,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = Buffer.alloc(0);
    let isCut = false;
    let isTimedOut = false;
    const collect = (piece: Buffer) => {
      const whole = Buffer.concat([output, piece]);
      isCut ||= whole.length > MAX_OUTPUT_BYTES;
      output = whole.subarray(-MAX_OUTPUT_BYTES);
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    let killing: NodeJS.Timeout | undefined;
    const end = () => {
      endGroup(child.pid, 'SIGTERM');
      killing ??= setTimeout(() => endGroup(child.pid, 'SIGKILL'), GRACE_MS);
    };
    const timer = setTimeout(() => {
      isTimedOut = true;
      end();
    }, timeoutMs);
    signal?.addEventListener('abort', end, { once: true });
    const cleanUp = () => {
      clearTimeout(timer);
      clearTimeout(killing);
      signal?.removeEventListener('abort', end);
      endGroup(child.pid, 'SIGKILL');
      child.stdout.destroy();
      child.stderr.destroy();
    };
    child.once('error', error => {
      cleanUp();
      reject(error);
    });
    let exitCode: number | null = null;
    let isDone = false;
    const done = () => {
      if (isDone) return;
      isDone = true;
      cleanUp();
      resolve({ exitCode, isTimedOut, output: decodeTail(output, isCut) });
    };
    child.once('exit', code => {
      exitCode = code;
      // What a child of its own keeps open isn't waited for.
      setTimeout(done, LAST_OUTPUT_MS);
    });
    child.once('close', done);
  });

function endGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // Nobody is left in the group.
  }
}
