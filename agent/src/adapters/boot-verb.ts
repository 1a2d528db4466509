import { SitecastError } from '@sitecast/shared/errors';
import { outputText } from '@sitecast/shared/text';
import type { AgentClock, CommandOutcome, Log, RunCommand } from '../ports.ts';

// How boot controls run programs: a verb of the device's maker, fw_setenv, or what boots the machine.

const VERB_TIMEOUT_MS = 30_000;
/** Milliseconds: a `reboot` may last until the machine has ended everything that it runs. */
const REBOOT_TIMEOUT_MS = 60_000;
/** Times that a verb is tried: the loader's variables may be locked, or the flash busy. Each verb does the same twice as once. */
const MAX_TRIES = 3;
const TRY_AGAIN_MS = 1000;
/** Milliseconds that a verb which changes the loader's variables may go on after the agent is asked to stop. */
const STOP_GRACE_MS = 5000;
/** Characters of a program's output that are logged or reported. */
export const MAX_TOLD_CHARS = 200;

export interface VerbContext {
  run: RunCommand;
  clock: Pick<AgentClock, 'sleep' | 'now'>;
  log: Log;
  /** Fires when the agent is asked to end. */
  stop: AbortSignal;
}

/**
 * Runs a command line.
 * @param said how it is named to people
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

/** Runs what boots the machine. Tried once only: the caller sees whether the boot comes. @throws as `runVerb` */
export function runReboot(context: VerbContext, command: string): Promise<CommandOutcome> {
  const options = { signal: context.stop, timeoutMs: REBOOT_TIMEOUT_MS, mayLeave: true };
  return runVerb(context, command, 'reboot', options);
}

/** Asks three times, a second apart. @throws the last error; the reason of `stop` */
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
      // A stop of the agent may have ended the verb first.
      await clock.sleep(TRY_AGAIN_MS, stop);
    }
  }
}

/** Does what changes the loader's variables: its signal fires `STOP_GRACE_MS` after `stop`. */
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
