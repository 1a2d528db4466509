import { type AgentClock, type BootControl, type BootState, otherSlot } from '../ports.ts';
import type { Reporter } from '../reports/reporter.ts';
import { type Reason, ROLLBACK_ORDERED, type Update } from '../state/agent-state.ts';
import type { StateFile } from '../state/state-file.ts';
import type { CycleResult, StatusBoard } from '../state/status.ts';
import type { Health } from './health.ts';
import type { Hooks } from './hooks.ts';
import type { Leases } from './leases.ts';
import { askedOnceMore, type Reboots, requestOf } from './reboots.ts';
import * as become from './transitions.ts';

// The steps of `judgeBoot` in update.ts.

/** Boots of a slot on trial: the first one, and a second one in case of a power cut. */
const TRIAL_BOOTS = 2;

/** How many boots a slot on trial gets from a loader that counts so many at most. */
export const trialBoots = (maxTries = TRIAL_BOOTS): number => Math.min(TRIAL_BOOTS, maxTries);

export interface JudgeDependencies {
  boot: Pick<BootControl, 'read' | 'markBad' | 'setNext' | 'confirm'>;
  stateFile: Pick<StateFile, 'current' | 'change'>;
  reporter: Pick<Reporter, 'report'>;
  status: Pick<StatusBoard, 'set'>;
  hooks: Pick<Hooks, 'run'>;
  health: Pick<Health, 'judge' | 'notes'>;
  /** Milliseconds that a healthy slot runs before it is checked once more. */
  confirmAfterMs: number;
  leases: Pick<Leases, 'keep' | 'giveBack'>;
  reboots: Reboots;
  confirmation: Confirmation;
  clock: AgentClock;
  /** Aborted when this process is asked to end. A judgement under way is then left open, and made after the next start. */
  stop: AbortSignal;
}

/** The wait for an operator's confirmation, by the `confirm` command, that the slot on trial is good. */
export class Confirmation {
  /** How long a healthy slot waits for it, in ms; undefined: it doesn't wait. */
  readonly withinMs: number | undefined;
  #isGiven = false;
  #listener: (() => void) | undefined;

  constructor(withinMs: number | undefined) {
    this.withinMs = withinMs;
  }

  give(): void {
    this.#isGiven = true;
    this.#listener?.();
  }

  /** Resolves when the confirmation is given, or `sleep` ends. @returns whether it was given */
  async wait(sleep: (signal: AbortSignal) => Promise<void>): Promise<boolean> {
    const stop = new AbortController();
    this.#listener = () => stop.abort();
    if (!this.#isGiven) await sleep(stop.signal);
    const isGiven = this.#isGiven;
    this.#isGiven = false;
    this.#listener = undefined;
    return isGiven;
  }
}

/** Stores how far the update has come. */
export async function note(
  { stateFile, status }: JudgeDependencies,
  update: Update,
  changes: Partial<Update>,
): Promise<Update> {
  const changed = { ...update, ...changes };
  await stateFile.change({ update: changed });
  status.set({ update: changed });
  return changed;
}

export function giveUp(deps: JudgeDependencies, update: Update, failure: Reason): Promise<Update> {
  return note(deps, update, { phase: 'fallingBack', failure, rebootsAsked: 0 });
}

/** Asks for the boot into the slot. @returns the state after the boot; or a result if no boot has come */
export async function askForBoot(deps: JudgeDependencies, update: Update): Promise<BootState | CycleResult> {
  const { hooks, status, reporter, reboots, stop } = deps;
  const subject = { slot: update.target, release: update.release };
  // The loader knows of the slot already, so a failure of these hooks is only logged. After a power cut they run again, unless a boot was
  // asked for.
  if (update.rebootsAsked === undefined)
    for (const name of ['post-install', 'pre-reboot'] as const) await hooks.run(name, subject, stop);
  status.set({ state: 'rebooting', message: `booting slot ${update.target}` });
  await reporter.report('rebooting', update, true);
  return reboots.ask(requestOf(await note(deps, update, askedOnceMore(update))), update.bootId);
}

/** Whether the machine was asked often enough to boot the slot, and still runs the other one. */
export async function neverBoots({ boot, reboots }: JudgeDependencies, update: Update): Promise<boolean> {
  return reboots.isInVain(update) && (await boot.read()).booted !== update.target;
}

/** Ends the attempt: the slot was never started. The running slot stays, and the release isn't barred: nothing is known of it. */
export async function endUnbooted(
  { boot, stateFile, reporter, leases, clock }: JudgeDependencies,
  update: Update,
  reason: Reason,
): Promise<CycleResult> {
  await boot.setNext(otherSlot(update.target));
  await boot.markBad(update.target);
  await reporter.report('failed', { ...update, reason }, true);
  await stateFile.change(become.toNeverBooted(update, { reason, at: timeOf(clock) }));
  await leases.giveBack(update.rollout.id);
  return { state: 'failed', reason };
}

/** Notes that the power failed during the slot's trial. @returns the update; given up if that has happened too often */
export async function notePowerLoss(
  deps: JudgeDependencies,
  update: Update,
  { bootId }: BootState,
): Promise<Update> {
  const powerLosses = (update.powerLosses ?? 0) + 1;
  // Most boot loaders count boots themselves. This count is for those that don't.
  if (powerLosses >= TRIAL_BOOTS) return giveUp(deps, update, exhausted(update));
  const message = `slot ${update.target} was interrupted while proving itself`;
  await deps.reporter.report('confirming', { ...update, reason: { code: 'powerLoss', message } }, true);
  return note(deps, update, { bootId, powerLosses });
}

/**
 * Checks the slot's health, checks it again after its soak, then waits for an operator's confirmation if the settings ask for one. It makes
 * no difference whether reports can be sent.
 * @returns why the slot isn't good; undefined if it is
 */
export async function checkHealth(deps: JudgeDependencies, update: Update): Promise<Reason | undefined> {
  const { reporter, status, confirmAfterMs } = deps;
  status.set({ state: 'confirming', message: `health checks of slot ${update.target}` });
  await reporter.report('confirming', update, true);
  const unhealthy =
    (await judgeOnce(deps, update)) ?? (confirmAfterMs > 0 ? await soak(deps, update) : undefined);
  if (unhealthy !== undefined) return { code: 'healthFailed', message: unhealthy };
  if (await isConfirmedInTime(deps, update)) return undefined;
  return { code: 'confirmTimedOut', message: 'nobody confirmed the slot in time' };
}

function judgeOnce({ health }: JudgeDependencies, update: Update): Promise<string | undefined> {
  const { target, release, healthNotes = {} } = update;
  return health.judge({ slot: target, release }, healthNotes);
}

/** Waits for the soak time. It starts again if the agent restarts within the boot. */
async function soak(deps: JudgeDependencies, update: Update): Promise<string | undefined> {
  const { clock, status, stop, confirmAfterMs } = deps;
  const until = new Date(clock.now() + confirmAfterMs).toISOString();
  status.set({
    waitingFor: 'soak',
    message: `slot ${update.target} is healthy, and is checked again at ${until}`,
  });
  await clock.sleep(confirmAfterMs, stop);
  stop.throwIfAborted();
  status.set({ waitingFor: undefined, message: `health checks of slot ${update.target}` });
  return judgeOnce(deps, update);
}

async function isConfirmedInTime(deps: JudgeDependencies, { target }: Update): Promise<boolean> {
  const { confirmation, clock, status, stop } = deps;
  const { withinMs } = confirmation;
  if (withinMs === undefined) return true;
  status.set({ waitingFor: 'confirm', message: `slot ${target} waits for \`sitecast-agent confirm\`` });
  const isConfirmed = await confirmation.wait(given => clock.sleep(withinMs, AbortSignal.any([given, stop])));
  // The wait may have ended because the agent is asked to stop.
  if (!isConfirmed) stop.throwIfAborted();
  return isConfirmed;
}

export async function confirm(
  { boot, stateFile, reporter, leases }: JudgeDependencies,
  update: Update,
): Promise<CycleResult> {
  await boot.confirm(update.target);
  const isReturn = update.kind === 'rollBack';
  const outcome = isReturn ? 'rolledBack' : 'completed';
  await reporter.report(outcome, { ...update, ...(isReturn ? { reason: ordered } : {}) }, true);
  await stateFile.change(become.toConfirmed(update, outcome));
  await leases.giveBack(update.rollout.id);
  return { state: outcome };
}

/** Asks for the boot back into the other slot. @returns like `askForBoot` */
export async function askForFallBack(
  deps: JudgeDependencies,
  update: Update,
): Promise<BootState | CycleResult> {
  const { boot, reporter, status, reboots } = deps;
  const { failure, target } = update;
  const message = `falling back to slot ${otherSlot(target)}: ${failure?.message}`;
  status.set({ state: 'rebooting', message });
  await reporter.report('failed', { ...update, reason: failure }, true);
  const { bootId } = await boot.read();
  await boot.setNext(otherSlot(target));
  return reboots.ask(requestOf(await note(deps, update, askedOnceMore(update))), bootId);
}

/** Ends the attempt: the other slot runs again. The failed release is barred. */
export async function endFallenBack(
  { boot, stateFile, reporter, leases, clock }: JudgeDependencies,
  update: Update,
): Promise<CycleResult> {
  const reason = update.failure ?? exhausted(update);
  await reporter.report('failed', { ...update, reason }, true);
  await boot.setNext(otherSlot(update.target));
  await boot.markBad(update.target);
  await reporter.report('rolledBack', { ...update, reason }, true);
  await stateFile.change(become.toFallenBack(update, { reason, at: timeOf(clock) }));
  await leases.giveBack(update.rollout.id);
  return { state: 'rolledBack', reason };
}

/** The reason of an ordered roll-back. An operator ordered it, or the origin itself: the signed order doesn't say which. */
const ordered: Reason = { code: ROLLBACK_ORDERED, message: 'the rollout was rolled back' };

/** The boot came, and the loader has paid no heed to the trial. */
export function neverTried({ target, tries }: Update): Reason {
  return {
    code: 'SITECAST_LOADER_IGNORED_TRIAL',
    message: `the machine has booted, and the loader never started slot ${target} (${tries} of ${tries} starts left): does it read Sitecast's script, and can it write its state? See \`sitecast-agent doctor\``,
  };
}

export function exhausted({ target }: Update): Reason {
  return {
    code: 'bootCountExhausted',
    message: `slot ${target} did not prove itself in the boots that it had`,
  };
}

const timeOf = (clock: AgentClock): string => new Date(clock.now()).toISOString();
