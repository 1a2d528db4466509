import { cutTextStart } from '@sitecast/shared/text';
import type { SlotName } from '../ports.ts';
import type { AgentParts, HookName } from './parts.ts';

/** A hook ends with it to say "not now": sysexits.h's EX_TEMPFAIL. */
const EXIT_NOT_NOW = 75;
const MAX_TOLD_CHARS = 400;

export type HookResult = { kind: 'done' } | { kind: 'notNow' | 'failed'; message: string };

export interface HookSubject {
  /** The slot that it's about. */
  slot: SlotName;
  release: { counter: number; version: string } | undefined;
}

/** Runs a hook, where there is one. */
export async function runHook(
  { settings, run, slots, log }: Pick<AgentParts, 'settings' | 'run' | 'slots' | 'log'>,
  name: HookName,
  { slot, release }: HookSubject,
  signal?: AbortSignal,
): Promise<HookResult> {
  const command = settings.hooks[name];
  if (command === undefined) return { kind: 'done' };
  const timeoutMs = name === 'health' ? settings.healthTimeoutMs : settings.hookTimeoutMs;
  const env = {
    SITECAST_HOOK: name,
    SITECAST_SLOT: slots[slot].path,
    SITECAST_SLOT_NAME: slot,
    SITECAST_PRODUCT: settings.product,
    SITECAST_RELEASE: release?.version ?? '',
    SITECAST_RELEASE_COUNTER: String(release?.counter ?? ''),
  };
  const { exitCode, isTimedOut, output } = await run(command, { env, timeoutMs, signal });
  signal?.throwIfAborted();
  if (exitCode === 0 && !isTimedOut) return { kind: 'done' };
  const how = isTimedOut ? `not done after ${timeoutMs / 1000} s` : `exit code ${exitCode ?? 'none'}`;
  const message = `${name}: ${how}: ${cutTextStart(output.trim(), MAX_TOLD_CHARS)}`;
  log('warn', message, { hook: name, exitCode, isTimedOut });
  return { kind: exitCode === EXIT_NOT_NOW && name !== 'health' ? 'notNow' : 'failed', message };
}
