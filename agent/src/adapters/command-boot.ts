import { cutText, cutTextStart } from '@sitecast/shared/text';
import { z } from 'zod';
import type { BootControl, BootState, CommandOutcome, LoaderCapabilities, SlotName } from '../ports.ts';
import { kernelBootId } from './booted-slot.ts';
import {
  MAX_TOLD_CHARS,
  patiently,
  runReboot,
  runVerb,
  type VerbContext,
  verbFailed,
  withGrace,
} from './boot-verb.ts';

/** How many warnings of one verb are logged in an hour. `get` is called often, and each warning may differ, for example by a time in it. */
const MAX_WARNINGS_AN_HOUR = 3;
const HOUR_MS = 3_600_000;

const answerSchema = z.looseObject({
  booted: z.enum(['A', 'B']),
  next: z.enum(['A', 'B']).optional(),
  bootId: z.string().min(1).max(128).optional(),
  maxTries: z.int().min(1).optional(),
  triesLeft: z.int().min(0).optional(),
  countsHangs: z.boolean().optional(),
  isAtomic: z.boolean().optional(),
});
type Answer = z.infer<typeof answerSchema>;

/**
 * Boot control by a program of the device's maker, called with a verb:
 *
 * | verb | does |
 * | --- | --- |
 * | `get` | prints `{"booted":"A","next":"A"}` to its standard output; also `bootId` where the kernel has none, and `maxTries`,
 * `countsHangs` and `isAtomic` to say what the boot loader can do |
 * | `mark-bad SLOT` | no boot chooses the slot any more |
 * | `set-trial SLOT TRIES` | the next boots run the slot, at most this many unless confirmed |
 * | `confirm SLOT` | the slot is good |
 * | `set-next SLOT` | all boots run the slot |
 * | `reboot` | reboots; it may return before the boot, and leave a process running that reboots later |
 *
 * Exit code 0 means that the change is made, and durable. Processes that a verb other than `reboot` leaves running are ended. Standard
 * error is for operators: it goes to the log, a few lines an hour.
 */
export class CommandBootControl implements BootControl {
  readonly #command: string;
  readonly #options: VerbContext;
  /** By verb. */
  readonly #told = new Map<string, Told>();

  constructor(command: string, options: VerbContext) {
    this.#command = command;
    this.#options = options;
  }

  start(): Promise<BootState> {
    return this.read();
  }

  async capabilities(): Promise<LoaderCapabilities> {
    const { maxTries, countsHangs, isAtomic } = await this.#get();
    return { maxTries, countsHangs, isAtomic };
  }

  async read(): Promise<BootState> {
    const answer = await this.#get();
    const bootId = answer.bootId ?? (await kernelBootId());
    const { booted, next = booted, triesLeft } = answer;
    return { booted, next, bootId, ...(triesLeft !== undefined && { trial: { slot: next, triesLeft } }) };
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
  async reboot(): Promise<void> {
    this.#tell('reboot', await runReboot(this.#options, `${this.#command} reboot`));
  }
  async stop(): Promise<void> {
    // The boot loader counts boots, not starts of the agent.
  }

  #get(): Promise<Answer> {
    return this.#patiently(async () => {
      const { stdout } = await this.#verb(['get'], this.#options.stop);
      try {
        return answerSchema.parse(JSON.parse(stdout));
      } catch (cause) {
        throw verbFailed('get', `it printed ${JSON.stringify(cutText(stdout, MAX_TOLD_CHARS))}`, cause);
      }
    });
  }

  async #change(...words: string[]): Promise<void> {
    await this.#patiently(() => withGrace(this.#options.stop, signal => this.#verb(words, signal)));
  }

  #patiently<T>(ask: () => Promise<T>): Promise<T> {
    return patiently(this.#options, ask);
  }

  async #verb(words: string[], signal: AbortSignal): Promise<CommandOutcome> {
    const said = words.join(' ');
    const outcome = await runVerb(this.#options, `${this.#command} ${said}`, said, { signal });
    this.#tell(said, outcome);
    return outcome;
  }

  /** Logs a warning, unless it repeats the last one, or there were too many. */
  #tell(verb: string, { stderr }: CommandOutcome): void {
    const { log, clock } = this.#options;
    const warning = cutTextStart(stderr.trim(), MAX_TOLD_CHARS);
    const before = this.#told.get(verb);
    const nowMs = clock.now();
    // The hour begins again if the clock was set.
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

/** The logged warnings of a verb in the current hour. */
interface Told {
  last: string;
  sinceMs: number;
  count: number;
  leftOut: number;
}

function counted({ count, leftOut }: Told): Pick<Told, 'count' | 'leftOut'> {
  return count < MAX_WARNINGS_AN_HOUR ? { count: count + 1, leftOut } : { count, leftOut: leftOut + 1 };
}
