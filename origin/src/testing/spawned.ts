import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { TestOperator } from './operator.ts';

const BIN = fileURLToPath(new URL('../../bin/sitecast-origin.js', import.meta.url));

/** `sitecast-origin serve` as a process of its own. */
export interface SpawnedOrigin {
  url: string;
  child: ChildProcess;
  /** An operator with the admin's token. */
  operator: TestOperator;
  output: () => string;
  log: () => string;
  /** Sends the signal and waits for the exit. @returns the exit code, or null after SIGKILL */
  stop: (signal?: NodeJS.Signals) => Promise<number | null>;
}

/**
 * Starts an origin on a free port, and waits until it listens.
 * @throws with its output on stderr, if it exits before
 */
export async function spawnOrigin(data: string, args: readonly string[] = []): Promise<SpawnedOrigin> {
  const child = spawn(process.execPath, [BIN, 'serve', '--data', data, '--listen', '127.0.0.1:0', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  let log = '';
  child.stderr.on('data', (bytes: Buffer) => {
    log += bytes.toString();
  });
  const ended = new Promise<number | null>(resolve => child.once('close', code => resolve(code)));
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout.on('data', (bytes: Buffer) => {
      output += bytes.toString();
      const found = /listens on (\S+?),? /.exec(output)?.[1];
      if (found !== undefined) resolve(found);
    });
    void ended.then(code => reject(new Error(`exit code ${code}: ${log}`)));
  });
  const token = readFileSync(join(data, 'admin.token'), 'utf8').trim();
  return {
    url,
    child,
    operator: new TestOperator((path, init) => fetch(url + path, init), token),
    output: () => output,
    log: () => log,
    stop: async (signal = 'SIGTERM') => {
      child.kill(signal);
      return await ended;
    },
  };
}
