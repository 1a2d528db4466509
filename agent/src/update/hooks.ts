import { isSystemError } from '@sitecast/shared/errors';
import { outputText } from '@sitecast/shared/text';
import type { AgentClock, CommandOutcome, Log, RunCommand, Slot, SlotName } from '../ports.ts';
import { failed, postponed } from './result.ts';

/** Commands of the device's owner; each is a shell command line. */
export const HOOK_NAMES = [
  'pre-download',
  'pre-install',
  'post-install',
  'pre-reboot',
  'health',
  'serve',
] as const;
export type HookName = (typeof HOOK_NAMES)[number];

/** The exit code by which a hook says "not now": EX_TEMPFAIL of sysexits.h. */
const EXIT_NOT_NOW = 75;
const MAX_TOLD_CHARS = 400;
/**
 * In ms. A machine that shuts down ends the agent and its hooks at nearly the same moment, so a hook's failure counts only if the agent
 * isn't asked to stop within that time.
 */
const STOP_SETTLES_MS = 1000;

type HookResult = { kind: 'done' } | { kind: 'notNow' | 'failed'; message: string };

export interface HookSubject {
  /** The slot that the hook is about. */
  slot: SlotName;
  release: { counter: number; version: string } | undefined;
}

interface HookDependencies {
  product: string;
  hooks: Partial<Record<HookName, string>>;
  hookTimeoutMs: number;
  healthTimeoutMs: number;
  slots: Readonly<Record<SlotName, Slot>>;
  run: RunCommand;
  clock: AgentClock;
  log: Log;
}

/** Runs the hooks of an update. */
export class Hooks {
  readonly #deps: HookDependencies;

  constructor(deps: HookDependencies) {
    this.#deps = deps;
  }

  has(name: HookName): boolean {
    return this.#deps.hooks[name] !== undefined;
  }

  /**
   * Runs a hook that can refuse.
   * @throws CycleEnd (`failed` or `waiting`) where it refuses; what `run` throws
   */
  async ask(name: 'pre-download' | 'pre-install', subject: HookSubject, signal: AbortSignal): Promise<void> {
    const result = await this.run(name, subject, signal);
    if (result.kind === 'failed') throw failed({ code: 'SITECAST_HOOK_FAILED', message: result.message });
    if (result.kind === 'notNow')
      throw postponed('hook', { code: 'SITECAST_HOOK_NOT_NOW', message: result.message });
  }

  /**
   * Runs a hook, if there is one.
   * @throws the signal's reason, also if the hook failed because the process ends
   */
  async run(name: HookName, subject: HookSubject, signal: AbortSignal): Promise<HookResult> {
    const { hooks, hookTimeoutMs, healthTimeoutMs, clock, log } = this.#deps;
    const command = hooks[name];
    if (command === undefined) return { kind: 'done' };
    const timeoutMs = name === 'health' ? healthTimeoutMs : hookTimeoutMs;
    const options = { env: this.#environmentOf(name, subject), timeoutMs, signal };
    const { exitCode, isTimedOut, output } = await this.#outcomeOf(name, command, options);
    signal.throwIfAborted();
    if (exitCode === 0 && !isTimedOut) return { kind: 'done' };
    const isNotNow = exitCode === EXIT_NOT_NOW && name !== 'health';
    if (!isNotNow) {
      await clock.sleep(STOP_SETTLES_MS, signal);
      signal.throwIfAborted();
    }
    const how = isTimedOut ? `not done after ${timeoutMs / 1000} s` : `exit code ${exitCode ?? 'none'}`;
    const message = `${name}: ${how}: ${outputText(output, MAX_TOLD_CHARS)}`;
    // Where the device waits because of this hook, the wait is logged, once. After other hooks the update goes on.
    const isWaitedFor = name === 'pre-download' || name === 'pre-install';
    if (!isNotNow) log('warn', message, { hook: name, exitCode, isTimedOut });
    else if (!isWaitedFor) log('info', `${message}; the update goes on`, { hook: name, exitCode });
    return { kind: isNotNow ? 'notNow' : 'failed', message };
  }

  /** If the health check can't be started, the slot counts as unhealthy. Other hooks are tried again. */
  async #outcomeOf(
    name: HookName,
    command: string,
    options: Parameters<RunCommand>[1],
  ): Promise<Pick<CommandOutcome, 'exitCode' | 'isTimedOut' | 'output'>> {
    try {
      return await this.#deps.run(command, options);
    } catch (error) {
      if (name !== 'health' || !isSystemError(error)) throw error;
      return { exitCode: null, isTimedOut: false, output: error.message };
    }
  }

  #environmentOf(name: HookName, { slot, release }: HookSubject): Record<string, string> {
    const { product, slots } = this.#deps;
    return {
      SITECAST_HOOK: name,
      SITECAST_SLOT: slots[slot].path,
      SITECAST_SLOT_NAME: slot,
      SITECAST_PRODUCT: product,
      SITECAST_RELEASE: release?.version ?? '',
      SITECAST_RELEASE_COUNTER: String(release?.counter ?? ''),
    };
  }
}
