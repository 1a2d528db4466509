import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const BIN = fileURLToPath(new URL('../../bin/sitecast-agent.js', import.meta.url));

export interface Ended {
  exitCode: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** A real `sitecast-agent` process, for tests: the built one, as installed. */
export class AgentProcess {
  readonly #child: ChildProcess;
  readonly #ended: Promise<Ended>;
  stdout = '';
  stderr = '';

  /** @param bin another installation's */
  constructor(args: readonly string[], env: Record<string, string> = {}, bin = BIN) {
    this.#child = spawn(process.execPath, [bin, ...args], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child.stdout?.on('data', part => {
      this.stdout += String(part);
    });
    this.#child.stderr?.on('data', part => {
      this.stderr += String(part);
    });
    this.#ended = this.#end();
  }

  static run(args: readonly string[], env: Record<string, string> = {}, bin = BIN): Promise<Ended> {
    return new AgentProcess(args, env, bin).ended;
  }

  get ended(): Promise<Ended> {
    return this.#ended;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<Ended> {
    this.#child.kill(signal);
    return this.#ended;
  }

  async #end(): Promise<Ended> {
    await once(this.#child, 'close');
    const { exitCode, signalCode } = this.#child;
    return { exitCode, signal: signalCode, stdout: this.stdout, stderr: this.stderr };
  }
}

/** Whether a process with this id exists. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

export { until } from '@sitecast/shared/testing';
