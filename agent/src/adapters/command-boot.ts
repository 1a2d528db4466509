import { readFile } from 'node:fs/promises';
import { SitecastError } from '@sitecast/shared/errors';
import { cutText, cutTextStart, outputText } from '@sitecast/shared/text';
import { z } from 'zod';
import type {
  AgentClock,
  BootControl,
  BootState,
  CommandOutcome,
  LoaderCapabilities,
  Log,
  RunCommand,
  SlotName,
} from '../ports.ts';

const VERB_TIMEOUT_MS = 30_000;
/** Milliseconds: a `reboot` may last until the machine has ended everything that it runs. */
const REBOOT_TIMEOUT_MS = 60_000;
/** Times that a verb is tried: the loader's variables may be locked, or the flash busy. Each verb does the same twice as once. */
const MAX_TRIES = 3;
const TRY_AGAIN_MS = 1000;
/** Milliseconds that a verb which changes the loader's variables may go on after the agent is asked to stop. */
const STOP_GRACE_MS = 5000;
/** Characters of the program's output that are logged or reported. */
const MAX_TOLD_CHARS = 200;
/** Warnings of one verb that are logged in an hour. `get` is called often, and each warning may differ, by a time in it, say. */
const MAX_WARNINGS_AN_HOUR = 3;
const HOUR_MS = 3_600_000;
const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id';

const answerSchema = z.looseObject({
  booted: z.enum(['A', 'B']),
  next: z.enum(['A', 'B']).optional(),
  bootId: z.string().min(1).max(128).optional(),
  maxTries: z.int().min(1).optional(),
  countsHangs: z.boolean().optional(),
  isAtomic: z.boolean().optional(),
});
type Answer = z.infer<typeof answerSchema>;

export interface CommandBootOptions {
  run: RunCommand;
  clock: Pick<AgentClock, 'sleep' | 'now'>;
  log: Log;
  /** Fires when the agent is asked to end. */
  stop: AbortSignal;
}

/**
 * Boot control by a program of the device's maker, called with a verb:
 *
 * | verb | does |
 * | --- | --- |
 * | `get` | prints `{"booted":"A","next":"A"}`, and `bootId` where the kernel's doesn't say, to its standard output; `maxTries`, `countsHangs` and `isAtomic` where it says what the loader can do |
 * | `mark-bad SLOT` | no boot chooses it |
 * | `set-trial SLOT TRIES` | the next boots run it, at most so many unless confirmed |
 * | `confirm SLOT` | it's good |
 * | `set-next SLOT` | all boots run it |
 * | `reboot` | boots; it may return before that, and leave something running that boots later |
 *
 * Exit code 0 says that the change is done, and durable. Processes that a verb other than `reboot` leaves running are ended. Standard
 * error is for people: it goes to the log, a few lines an hour.
 */
export class CommandBootControl implements BootControl {
  readonly #command: string;
  readonly #options: CommandBootOptions;
  /** By verb. */
  readonly #told = new Map<string, Told>();

  constructor(command: string, options: CommandBootOptions) {
    this.#command = command;
    this.#options = options;
  }

  start(): Promise<BootState> {
    return this.read();
  }

  async capabilities(): Promise<LoaderCapabilities> {
    const { maxTries = Number.POSITIVE_INFINITY, countsHangs, isAtomic } = await this.#get();
    return { maxTries, countsHangs, isAtomic };
  }

  async read(): Promise<BootState> {
    const answer = await this.#get();
    const bootId = answer.bootId ?? (await readFile(BOOT_ID_FILE, 'utf8')).trim();
    return { booted: answer.booted, next: answer.next ?? answer.booted, bootId };
  }

  async markBad(slot: SlotName): Promise<void> {
    await this.#change('mark-bad', slot);
  }
  async setTrial(slot: SlotName, tries: number): Promise<void> {
    await this.#change('set-trial', slot, String(tries));
  }
  async confirm(slot: SlotName): Promise<void> {
    await this.#change('confirm', slot);
  }
  async setNext(slot: SlotName): Promise<void> {
    await this.#change('set-next', slot);
  }
  /** Tried once only: the caller sees whether the boot comes. */
  async reboot(): Promise<void> {
    await this.#verb(['reboot'], {
      signal: this.#options.stop,
      timeoutMs: REBOOT_TIMEOUT_MS,
      mayLeave: true,
    });
  }
  async stop(): Promise<void> {
    // The boot loader counts boots, not starts of the agent.
  }

  #get(): Promise<Answer> {
    return this.#patiently(async () => {
      const { stdout } = await this.#verb(['get'], { signal: this.#options.stop });
      try {
        return answerSchema.parse(JSON.parse(stdout));
      } catch (cause) {
        throw failed('get', `it printed ${JSON.stringify(cutText(stdout, MAX_TOLD_CHARS))}`, cause);
      }
    });
  }

  async #change(...words: string[]): Promise<void> {
    await this.#patiently(async () => {
      const grace = graceAfter(this.#options.stop);
      try {
        await this.#verb(words, { signal: grace.signal });
      } finally {
        grace.end();
      }
    });
  }

  async #patiently<T>(ask: () => Promise<T>): Promise<T> {
    const { stop, log, clock } = this.#options;
    for (let tries = 1; ; tries += 1) {
      stop.throwIfAborted();
      try {
        return await ask();
      } catch (error) {
        stop.throwIfAborted();
        const mayPass = error instanceof SitecastError && error.data.isTimedOut !== true;
        if (!mayPass || tries >= MAX_TRIES) throw error;
        log('warn', `${error.message}; it is asked again`, { code: error.code });
        // A stop of the agent may have ended the verb first.
        await clock.sleep(TRY_AGAIN_MS, stop);
      }
    }
  }

  async #verb(
    words: string[],
    options: { signal: AbortSignal; timeoutMs?: number; mayLeave?: boolean },
  ): Promise<CommandOutcome> {
    const said = words.join(' ');
    const timeoutMs = options.timeoutMs ?? VERB_TIMEOUT_MS;
    let outcome: CommandOutcome;
    try {
      outcome = await this.#options.run(`${this.#command} ${said}`, { env: {}, ...options, timeoutMs });
    } catch (cause) {
      this.#options.stop.throwIfAborted();
      throw failed(said, `it can't be run: ${String(cause)}`, cause);
    }
    const { exitCode, isTimedOut, output, stderr } = outcome;
    if (isTimedOut) throw failed(said, `it took more than ${timeoutMs / 1000} s`, undefined, isTimedOut);
    if (exitCode !== 0)
      throw failed(said, `exit code ${exitCode ?? 'none'}: ${outputText(output, MAX_TOLD_CHARS)}`);
    this.#tell(said, cutTextStart(stderr.trim(), MAX_TOLD_CHARS));
    return outcome;
  }

  /** Logs a warning, unless it repeats the last one, or comes too often. */
  #tell(verb: string, warning: string): void {
    const { log, clock } = this.#options;
    const before = this.#told.get(verb);
    const nowMs = clock.now();
    // After the clock was set, a new hour begins.
    const isSameHour = before !== undefined && Math.abs(nowMs - before.sinceMs) < HOUR_MS;
    const told = isSameHour ? before : { last: before?.last ?? '', sinceMs: nowMs, count: 0, leftOut: 0 };
    const isNew = warning !== '' && warning !== told.last;
    this.#told.set(verb, { ...told, last: warning, ...(isNew ? counted(told) : {}) });
    if (!isNew || told.count >= MAX_WARNINGS_AN_HOUR) return;
    const more = isSameHour ? 0 : (before?.leftOut ?? 0);
    const others = more === 0 ? '' : ` (and ${more} times something else in the last hour)`;
    log('warn', `boot control '${verb}' says: ${warning}${others}`);
  }
}

/** The warnings of a verb in the present hour. */
interface Told {
  last: string;
  sinceMs: number;
  count: number;
  leftOut: number;
}

function counted({ count, leftOut }: Told): Pick<Told, 'count' | 'leftOut'> {
  return count < MAX_WARNINGS_AN_HOUR ? { count: count + 1, leftOut } : { count, leftOut: leftOut + 1 };
}

/** A signal that fires `STOP_GRACE_MS` after `stop`. */
function graceAfter(stop: AbortSignal): { signal: AbortSignal; end: () => void } {
  const over = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const begin = () => {
    timer = setTimeout(() => over.abort(stop.reason), STOP_GRACE_MS);
  };
  stop.addEventListener('abort', begin, { once: true });
  const end = () => {
    clearTimeout(timer);
    stop.removeEventListener('abort', begin);
  };
  return { signal: over.signal, end };
}

function failed(verb: string, why: string, cause?: unknown, isTimedOut = false): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_BOOT_COMMAND_FAILED',
    `boot control '${verb}' failed: ${why}`,
    { data: { verb, isTimedOut }, cause },
  );
}
