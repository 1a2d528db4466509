import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { z } from 'zod';

const answerSchema = z.object({ exitCode: z.number(), stdout: z.string(), stderr: z.string() });
type Answer = z.infer<typeof answerSchema>;

interface Request {
  cwd: string;
  args: readonly string[];
  env: Record<string, string>;
}

/** Processes that run `sitecast` commands, each one at a time; there are as many as ran at once. */
export class Operators {
  readonly #path: string;
  readonly #env: NodeJS.ProcessEnv;
  readonly #idle: ChildProcess[] = [];
  readonly #running = new Set<ChildProcess>();

  /** @param path of the bundled `operator-process` */
  constructor(path: string, env: NodeJS.ProcessEnv) {
    this.#path = path;
    this.#env = env;
  }

  get running(): Iterable<ChildProcess> {
    return this.#running;
  }

  /** @throws if the process ends before it answers */
  async run(request: Request): Promise<Answer> {
    const child = this.#idle.pop() ?? this.#start();
    hold(child, true);
    const over = new AbortController();
    const heard = (event: 'message' | 'exit') => once(child, event, { signal: over.signal });
    const ended = heard('exit').then(([code, signal]) => {
      throw new Error(`sitecast ${request.args.join(' ')}: its process ended (${code ?? signal})`);
    });
    child.send(request);
    try {
      const [answer] = await Promise.race([heard('message'), ended]);
      hold(child, false);
      this.#idle.push(child);
      return answerSchema.parse(answer);
    } finally {
      ended.catch(() => {});
      over.abort();
    }
  }

  #start(): ChildProcess {
    // It ends with the channel, and so with this process.
    const child = fork(this.#path, {
      env: this.#env,
      execArgv: [],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#running.add(child);
    child.once('exit', () => this.#running.delete(child));
    return child;
  }
}

/** An idle process does not keep the test process alive. */
function hold(child: ChildProcess, isBusy: boolean): void {
  if (isBusy) {
    child.ref();
    child.channel?.ref();
  } else {
    child.unref();
    child.channel?.unref();
  }
}
