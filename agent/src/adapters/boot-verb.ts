import { SitecastError } from '@sitecast/shared/errors';
import { outputText } from '@sitecast/shared/text';
import type { AgentClock, CommandOutcome, Log, RunCommand } from '../ports.ts';

// How boot controls run programs: the verbs of a device maker's program, fw_setenv, or the command that reboots the machine.

const VERB_TIMEOUT_MS = 30_000;
/** In ms: a `reboot` may run until the machine has ended all of its processes. */
const REBOOT_TIMEOUT_MS = 60_000;
/**
 * How often a verb is tried: the boot loader's variables may be locked, or the flash busy. Running a verb twice has the same result as
 * once.
 */
const MAX_TRIES = 3;
const TRY_AGAIN_MS = 1000;
/** In ms: how long a verb that changes the boot loader's variables may run after the agent was asked to stop. */
const STOP_GRACE_MS = 5000;
/** How many characters of a program's output are logged or reported. */
export const MAX_TOLD_CHARS = 200;

export interface VerbContext {
  run: RunCommand;
  clock: Pick<AgentClock, 'sleep' | 'now'>;
  log: Log;
  /** Aborted when the agent is asked to end. */
  stop: AbortSignal;
}

/**
 * Runs a command line.
 * @param said the name of the command in messages
 * @throws SITECAST_BOOT_COMMAND_FAILED where it can't be run, doesn't end in time, or doesn't end with 0
 */
export async function runVerb(
  { run, stop }: VerbContext,
  command: string,
  said: string,
  options: { signal: AbortSignal; timeoutMs?: number; mayLeave?: boolean },
): Promise<CommandOutcome> {
  const timeoutMs = options.timeoutMs ?? VERB_TIMEOUT_MS;
  let outcome: CommandOutcome;
  try {
    outcome = await run(command, { env: {}, ...options, timeoutMs });
  } catch (cause) {
    stop.throwIfAborted();
    throw verbFailed(said, `it can't be run: ${String(cause)}`, cause);
  }
  const { exitCode, isTimedOut, output } = outcome;
  if (isTimedOut) throw verbFailed(said, `it took more than ${timeoutMs / 1000} s`, undefined, isTimedOut);
  if (exitCode !== 0)
    throw verbFailed(said, `exit code ${exitCode ?? 'none'}: ${outputText(output, MAX_TOLD_CHARS)}`);
  return outcome;
}

/** Runs the command that reboots the machine, once: the caller checks whether the boot comes. @throws what `runVerb` throws */
export function runReboot(context: VerbContext, command: string): Promise<CommandOutcome> {
  const options = { signal: context.stop, timeoutMs: REBOOT_TIMEOUT_MS, mayLeave: true };
  return runVerb(context, command, 'reboot', options);
}

/** Tries three times, a second apart. @throws the last error; the reason of `stop` */
export async function patiently<T>(
  { stop, log, clock }: Omit<VerbContext, 'run'>,
  ask: () => Promise<T>,
): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    stop.throwIfAborted();
    try {
      return await ask();
    } catch (error) {
      stop.throwIfAborted();
      const mayPass = error instanceof SitecastError && error.data.isTimedOut !== true;
      if (!mayPass || tries >= MAX_TRIES) throw error;
      log('warn', `${error.message}; it is asked again`, { code: error.code });
      // The verb may have failed only because the agent stops.
      await clock.sleep(TRY_AGAIN_MS, stop);
    }
  }
}

/** Runs a change of the boot loader's variables with a signal that fires `STOP_GRACE_MS` after `stop`. */
export async function withGrace<T>(
  stop: AbortSignal,
  change: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const over = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const begin = () => {
    timer = setTimeout(() => over.abort(stop.reason), STOP_GRACE_MS);
  };
  stop.addEventListener('abort', begin, { once: true });
  try {
    return await change(over.signal);
  } finally {
    clearTimeout(timer);
    stop.removeEventListener('abort', begin);
  }
}

export function verbFailed(verb: string, why: string, cause?: unknown, isTimedOut = false): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_BOOT_COMMAND_FAILED',
    `boot control '${verb}' failed: ${why}`,
    { data: { verb, isTimedOut }, cause },
  );
}
