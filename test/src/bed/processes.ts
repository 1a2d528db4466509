import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Operators } from './operators.ts';

const START_TIMEOUT_MS = 20_000;
const UNTIL_TIMEOUT_MS = 60_000;
const BINS = {
  sitecast: 'origin/bin/sitecast.js',
  'sitecast-origin': 'origin/bin/sitecast-origin.js',
  'sitecast-gateway': 'gateway/bin/sitecast-gateway.js',
  'sitecast-agent': 'agent/bin/sitecast-agent.js',
};
export type CommandName = keyof typeof BINS;

const HERE = fileURLToPath(import.meta.url);
const TOP = HERE.slice(0, HERE.lastIndexOf('/test/'));
const operators = new Operators(
  join(TOP, 'test/dist/src/bed/operator-process.js'),
  withoutSettings(process.env),
);

/** The commands as installed: compiled, started by their bin stubs. Works from sources and from dist. */
function binPath(name: CommandName): string {
  return join(TOP, BINS[name]);
}

export interface Finished {
  exitCode: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

interface RunOptions {
  cwd?: string;
  env?: Record<string, string>;
  /** A program with its arguments that starts the command and becomes it, such as `ip netns exec NAME`. */
  within?: readonly string[];
  /** The directory of the bin stubs, where another build than this checkout's is to run. */
  bin?: string;
}

/** Real processes in a directory of their own, all of them gone after `close`. */
export class Bed {
  readonly directory: string;
  readonly #running = new Set<ChildProcess>();

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async open(parent = tmpdir()): Promise<Bed> {
    return new Bed(await mkdtemp(join(parent, 'sitecast-bed-')));
  }

  path(...parts: string[]): string {
    return join(this.directory, ...parts);
  }

  commandPath(name: CommandName): string {
    return binPath(name);
  }

  /** Runs a command to its end; what an operator types in a process that did so before, unless it's to be within another. */
  async run(name: CommandName, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
    if (name === 'sitecast' && !options.within) {
      const { cwd = this.directory, env = {} } = options;
      return { ...(await operators.run({ cwd, args, env })), signal: null };
    }
    const child = this.#spawn(name, args, options);
    let stdout = '';
    let stderr = '';
    child.stdout?.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const [exitCode, signal]: [number | null, NodeJS.Signals | null] = await new Promise(resolve => {
      child.once('close', (code, by) => resolve([code, by]));
    });
    return { exitCode, signal, stdout, stderr };
  }

  /** Runs a command that must succeed with `--json`, and returns what it printed. */
  async json(
    name: CommandName,
    args: readonly string[],
    options: RunOptions = {},
  ): Promise<Record<string, unknown>> {
    const finished = await this.run(name, [...args, '--json'], options);
    if (finished.exitCode !== 0)
      throw new Error(`${name} ${args.join(' ')} exited ${finished.exitCode}: ${finished.stderr}`);
    return JSON.parse(finished.stdout);
  }

  /**
   * Makes the operators' keys and the first root at an origin whose data lie in `origin`; every later command finds its
   * settings in sitecast.yaml.
   */
  async foundRepository({ url }: Pick<Server, 'url'>): Promise<void> {
    for (const role of ['root', 'release'])
      await this.json('sitecast', ['keys', 'create', role, '--no-passphrase']);
    await this.json('sitecast', ['init', '--origin', url, '--token-file', 'origin/admin.token']);
  }

  /** Starts a server and waits for the address that it says it listens on. */
  async serve(name: CommandName, args: readonly string[], options: RunOptions = {}): Promise<Server> {
    const child = this.#spawn(name, args, options);
    const output: string[] = [];
    const url = await new Promise<string>((resolve, reject) => {
      const fail = (why: string): void => reject(new Error(`${name} ${why}\n${output.join('')}`));
      const timer = setTimeout(() => fail('did not say that it listens'), START_TIMEOUT_MS);
      child.once('exit', code => {
        clearTimeout(timer);
        fail(`exited ${code}`);
      });
      child.stderr?.setEncoding('utf8').on('data', (text: string) => output.push(text));
      child.stdout?.setEncoding('utf8').on('data', (text: string) => {
        output.push(text);
        const found = /https?:\/\/[\w.:[\]-]+/.exec(output.join(''));
        if (!found) return;
        clearTimeout(timer);
        resolve(found[0]);
      });
    });
    return new Server(child, url, output);
  }

  /** Starts a command that is meant to be stopped. */
  start(name: CommandName, args: readonly string[], options: RunOptions = {}): Server {
    const child = this.#spawn(name, args, options);
    const output: string[] = [];
    for (const stream of [child.stdout, child.stderr])
      stream?.setEncoding('utf8').on('data', (text: string) => output.push(text));
    return new Server(child, '', output);
  }

  /** Waits until something comes true. @throws after 60 s */
  async until(holds: () => Promise<boolean>): Promise<void> {
    const endMs = Date.now() + UNTIL_TIMEOUT_MS;
    while (!(await holds())) {
      if (Date.now() > endMs) throw new Error('waited in vain');
      await sleep(20);
    }
  }

  async close(): Promise<void> {
    for (const child of this.#running) child.kill('SIGKILL');
    await Promise.all([...this.#running].map(child => once(child, 'exit')));
    await rm(this.directory, { recursive: true, force: true });
  }

  #spawn(
    name: CommandName,
    args: readonly string[],
    { cwd = this.directory, env = {}, within = [], bin }: RunOptions,
  ): ChildProcess {
    const stub = bin === undefined ? binPath(name) : join(bin, `${name}.js`);
    const [program = process.execPath, ...rest] = [...within, process.execPath, stub, ...args];
    const child = spawn(program, rest, {
      cwd,
      env: { ...withoutSettings(process.env), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#running.add(child);
    child.once('exit', () => this.#running.delete(child));
    return child;
  }
}

export class Server {
  readonly url: string;
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #output: string[];

  constructor(child: ChildProcess, url: string, output: string[]) {
    if (child.pid === undefined) throw new Error('the process never started');
    this.#child = child;
    this.#output = output;
    this.pid = child.pid;
    this.url = url;
  }

  /** Everything it printed so far. */
  get output(): string {
    return this.#output.join('');
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return this.#child.exitCode;
    const exited = once(this.#child, 'exit');
    this.#child.kill(signal);
    await exited;
    return this.#child.exitCode;
  }
}

/** What's set where the tests run must not steer the commands under test. */
function withoutSettings(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('SITECAST_')));
}
