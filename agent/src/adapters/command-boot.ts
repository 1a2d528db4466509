import { readFile } from 'node:fs/promises';
import { SitecastError } from '@sitecast/shared/errors';
import { cutText, cutTextStart } from '@sitecast/shared/text';
import { z } from 'zod';
import type { BootControl, BootState, RunCommand, SlotName } from '../ports.ts';

const VERB_TIMEOUT_MS = 30_000;
/** Of what the program printed. */
const MAX_TOLD_CHARS = 200;
const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id';

const answerSchema = z.looseObject({
  booted: z.enum(['A', 'B']),
  next: z.enum(['A', 'B']).optional(),
  bootId: z.string().min(1).max(128).optional(),
});

/**
 * Boot control by a program of the device's maker, called with a verb:
 *
 * | verb | does |
 * | --- | --- |
 * | `get` | prints `{"booted":"A","next":"A"}`, and `bootId` where the kernel's doesn't say |
 * | `mark-bad SLOT` | no boot chooses it |
 * | `set-trial SLOT TRIES` | the next boots run it, at most so many unless confirmed |
 * | `confirm SLOT` | it's good |
 * | `set-next SLOT` | all boots run it |
 * | `reboot` | boots; it may return before that |
 *
 * Exit code 0 says that it's done, and durable.
 */
export class CommandBootControl implements BootControl {
  readonly #command: string;
  readonly #run: RunCommand;

  constructor(command: string, run: RunCommand) {
    this.#command = command;
    this.#run = run;
  }

  start(): Promise<BootState> {
    return this.read();
  }

  async read(): Promise<BootState> {
    const output = await this.#verb('get');
    let answer: z.infer<typeof answerSchema>;
    try {
      answer = answerSchema.parse(JSON.parse(output));
    } catch (cause) {
      throw failed('get', `it printed ${JSON.stringify(cutText(output, MAX_TOLD_CHARS))}`, cause);
    }
    const bootId = answer.bootId ?? (await readFile(BOOT_ID_FILE, 'utf8')).trim();
    return { booted: answer.booted, next: answer.next ?? answer.booted, bootId };
  }

  async markBad(slot: SlotName): Promise<void> {
    await this.#verb('mark-bad', slot);
  }
  async setTrial(slot: SlotName, tries: number): Promise<void> {
    await this.#verb('set-trial', slot, String(tries));
  }
  async confirm(slot: SlotName): Promise<void> {
    await this.#verb('confirm', slot);
  }
  async setNext(slot: SlotName): Promise<void> {
    await this.#verb('set-next', slot);
  }
  async reboot(): Promise<void> {
    await this.#verb('reboot');
  }
  async stop(): Promise<void> {
    // The boot loader counts boots, not starts of the agent.
  }

  async #verb(...words: string[]): Promise<string> {
    const { exitCode, isTimedOut, output } = await this.#run([this.#command, ...words].join(' '), {
      env: {},
      timeoutMs: VERB_TIMEOUT_MS,
    });
    if (isTimedOut) throw failed(words.join(' '), `it took more than ${VERB_TIMEOUT_MS} ms`);
    if (exitCode !== 0)
      throw failed(words.join(' '), `exit code ${exitCode}: ${cutTextStart(output, MAX_TOLD_CHARS).trim()}`);
    return output;
  }
}

function failed(verb: string, why: string, cause?: unknown): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_BOOT_COMMAND_FAILED',
    `boot control '${verb}' failed: ${why}`,
    {
      data: { verb },
      cause,
    },
  );
}
