import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { until } from '@sitecast/shared/testing';
import { Operators } from './operators.ts';

const BINS = {
  sitecast: 'origin/bin/sitecast.js',
  'sitecast-origin': 'origin/bin/sitecast-origin.js',
  'sitecast-gateway': 'gateway/bin/sitecast-gateway.js',
  'sitecast-agent': 'agent/bin/sitecast-agent.js',
};
/** Of what a process has said, in the message of a wait that was in vain. */
const MAX_SHOWN = 2000;
export type CommandName = keyof typeof BINS;

const SETTINGS = /^(?:SITECAST_.*|https?_proxy|no_proxy)$/i;
const HERE = fileURLToPath(import.meta.url);
const TOP = HERE.slice(0, HERE.lastIndexOf('/test/'));
const operators = new Operators(join(TOP, 'test/bundle/operator-process.js'), withoutSettings(process.env));

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
export class Testbed {
  readonly directory: string;
  readonly #running = new Set<ChildProcess>();
  readonly #servers = new Set<Server>();

  /** Where packages were unpacked to: their commands run, and not those of this checkout. */
  readonly #packages: string | undefined;

  private constructor(directory: string, packages?: string) {
    this.directory = directory;
    this.#packages = packages;
  }

  static async open(parent = tmpdir(), packages?: string): Promise<Testbed> {
    return new Testbed(await mkdtemp(join(parent, 'sitecast-testbed-')), packages);
  }

  path(...parts: string[]): string {
    return join(this.directory, ...parts);
  }

  commandPath(name: CommandName): string {
    return binPath(name);
  }

  /**
   * Runs a command to its end. A `sitecast` command runs in a process that has run others before, because starting a process is most of its cost.
   * With `within` or `bin` it gets a process of its own.
   */
  async run(name: CommandName, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
    const isThisCheckout = options.bin === undefined && this.#packages === undefined;
    if (name === 'sitecast' && !options.within && isThisCheckout) {
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

  /** Starts a server and waits for the address that it says it listens on. @throws with what it said, if it ends before */
  async serve(name: CommandName, args: readonly string[], options: RunOptions = {}): Promise<Server> {
    const server = this.start(name, args, options);
    await this.until(async () => server.url !== '', `${name} to say that it listens`);
    return server;
  }

  /** Starts a command that is meant to be stopped. */
  start(name: CommandName, args: readonly string[], options: RunOptions = {}): Server {
    const server = new Server(name, this.#spawn(name, args, options));
    this.#servers.add(server);
    return server;
  }

  /**
   * Waits until something comes true, as long as anything goes on.
   * @throws if nothing has gone on for a minute, or a process has ended that no test stopped
   */
  async until(holds: () => Promise<boolean>, what = 'it to come true'): Promise<void> {
    const servers = [...this.#servers];
    const check = (): Promise<boolean> => {
      for (const server of servers) server.throwIfEnded();
      return holds();
    };
    await until(what, check, {
      pids: () => [...this.#running, ...operators.running].flatMap(({ pid }) => pid ?? []),
      progress: () => servers.reduce((sum, { output }) => sum + output.length, 0),
    }).catch((error: unknown) => {
      const said = servers.map(({ name, output }) => `${name}: ${output.slice(-MAX_SHOWN)}`);
      throw new Error(`${error instanceof Error ? error.message : String(error)}\n${said.join('\n')}`, {
        cause: error,
      });
    });
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
    const command =
      this.#packages !== undefined
        ? [join(this.#packages, 'bin', name)]
        : [process.execPath, bin === undefined ? binPath(name) : join(bin, `${name}.js`)];
    const [program = process.execPath, ...rest] = [...within, ...command, ...args];
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
  readonly name: string;
  readonly pid: number;
  readonly #child: ChildProcess;
  #output = '';
  #url = '';
  #isStopped = false;

  constructor(name: string, child: ChildProcess) {
    if (child.pid === undefined) throw new Error('the process never started');
    this.name = name;
    this.#child = child;
    this.pid = child.pid;
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.#output += text));
    let results = '';
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#output += text;
      results += text;
      this.#url ||= /listens on (https?:[^\s,]+)[\s,]/.exec(results)?.[1] ?? '';
    });
  }

  /** Where it listens, once it has said so. */
  get url(): string {
    return this.#url;
  }

  /** Everything it printed so far. */
  get output(): string {
    return this.#output;
  }

  /** @throws if it has ended by itself */
  throwIfEnded(): void {
    const { exitCode, signalCode } = this.#child;
    if (!this.#isStopped && (exitCode ?? signalCode) !== null)
      throw new Error(`${this.name} ended by itself (${exitCode ?? signalCode})`);
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.#isStopped = true;
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return this.#child.exitCode;
    const exited = once(this.#child, 'exit');
    this.#child.kill(signal);
    await exited;
    return this.#child.exitCode;
  }
}

/** What's set where the tests run must not steer the commands under test. */
function withoutSettings(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !SETTINGS.test(name)));
}
