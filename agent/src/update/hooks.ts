import { isSystemError } from '@sitecast/shared/errors';
import { outputText } from '@sitecast/shared/text';
import type { CommandOutcome, SlotName } from '../ports.ts';
import type { AgentParts, HookName } from './parts.ts';

/** A hook ends with it to say "not now": sysexits.h's EX_TEMPFAIL. */
const EXIT_NOT_NOW = 75;
const MAX_TOLD_CHARS = 400;
/**
 * Whoever stops the agent, as a machine that is shut down does, may end its hooks as well, a moment sooner or later. So a failure
 * counts only if the agent isn't asked to stop within so many milliseconds.
 */
const STOP_SETTLES_MS = 1000;

export type HookResult = { kind: 'done' } | { kind: 'notNow' | 'failed'; message: string };

export interface HookSubject {
  /** The slot that it's about. */
  slot: SlotName;
  release: { counter: number; version: string } | undefined;
}

type HookParts = Pick<AgentParts, 'settings' | 'run' | 'slots' | 'log' | 'clock'>;

/**
 * Runs a hook, where there is one.
 * @throws the signal's reason, also where the hook has failed because of what the signal stands for
 */
export async function runHook(
  parts: HookParts,
  name: HookName,
  subject: HookSubject,
  signal: AbortSignal,
): Promise<HookResult> {
  const { settings, clock, log } = parts;
  const command = settings.hooks[name];
  if (command === undefined) return { kind: 'done' };
  const timeoutMs = name === 'health' ? settings.healthTimeoutMs : settings.hookTimeoutMs;
  const { exitCode, isTimedOut, output } = await outcomeOf(parts, name, command, {
    env: environmentOf(parts, name, subject),
    timeoutMs,
    signal,
  });
  signal.throwIfAborted();
  if (exitCode === 0 && !isTimedOut) return { kind: 'done' };
  const isNotNow = exitCode === EXIT_NOT_NOW && name !== 'health';
  if (!isNotNow) {
    await clock.sleep(STOP_SETTLES_MS, signal);
    signal.throwIfAborted();
  }
  const how = isTimedOut ? `not done after ${timeoutMs / 1000} s` : `exit code ${exitCode ?? 'none'}`;
  const message = `${name}: ${how}: ${outputText(output, MAX_TOLD_CHARS)}`;
  // Where it says "not now", the device waits, and that is told once.
  if (!isNotNow) log('warn', message, { hook: name, exitCode, isTimedOut });
  return { kind: isNotNow ? 'notNow' : 'failed', message };
}

type HookOutcome = Pick<CommandOutcome, 'exitCode' | 'isTimedOut' | 'output'>;

/** A machine on which the health check can't even be started isn't healthy. Other hooks are tried again. */
async function outcomeOf(
  { run }: HookParts,
  name: HookName,
  command: string,
  options: Parameters<AgentParts['run']>[1],
): Promise<HookOutcome> {
  try {
    return await run(command, options);
  } catch (error) {
    if (name !== 'health' || !isSystemError(error)) throw error;
    return { exitCode: null, isTimedOut: false, output: error.message };
  }
}

function environmentOf(
  { settings, slots }: HookParts,
  name: HookName,
  { slot, release }: HookSubject,
): Record<string, string> {
  return {
    SITECAST_HOOK: name,
    SITECAST_SLOT: slots[slot].path,
    SITECAST_SLOT_NAME: slot,
    SITECAST_PRODUCT: settings.product,
    SITECAST_RELEASE: release?.version ?? '',
    SITECAST_RELEASE_COUNTER: String(release?.counter ?? ''),
  };
}
