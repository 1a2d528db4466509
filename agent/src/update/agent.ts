import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { BootControl, BootState, Slot, SlotName } from '../ports.ts';
import type { Outbox } from '../reports/outbox.ts';
import type { Reporter } from '../reports/reporter.ts';
import type { AgentState, Reason } from '../state/agent-state.ts';
import type { StateFile } from '../state/state-file.ts';
import type { CheckResult, CycleResult, StatusBoard } from '../state/status.ts';
import { rememberedBoot } from './boot-verdict.ts';
import { isStillFollowed, plannedWays } from './find-release.ts';
import type { InstallDependencies } from './install-steps.ts';
import { recoverNotes } from './recover-notes.ts';
import { resultOf } from './result.ts';
import { locateSlots, noteFactorySlot, type SlotWatch } from './slots.ts';
import { UnexpectedSlot } from './unexpected-slot.ts';
import { installUpdate, judgeBoot } from './update.ts';

/** Ends of a cycle before which the boot loader may have been told something. */
const CHANGING_BOOT: ReadonlySet<string> = new Set(['rebooting', 'completed', 'failed', 'rolledBack']);

interface UpdateAgentDependencies {
  update: InstallDependencies;
  boot: Pick<BootControl, 'start' | 'read'>;
  stateFile: StateFile;
  status: StatusBoard;
  reporter: Reporter;
  /** The agent's own directory. */
  data: string;
  slots: Readonly<Record<SlotName, Slot>>;
  slotWatch: SlotWatch;
  /** What the first slot held when the device was made. */
  factoryRelease: { counter: number; version: string } | undefined;
  outbox: Pick<Outbox, 'newest' | 'recent'>;
  /** Sends the reports that are due. */
  deliver: (signal: AbortSignal) => Promise<void>;
}

/** Keeps one device up to date. Each `cycle` takes it as many steps further as possible, and says how it ended. */
export class UpdateAgent {
  readonly #deps: UpdateAgentDependencies;
  readonly #unexpected: UnexpectedSlot;

  constructor(deps: UpdateAgentDependencies) {
    this.#deps = deps;
    this.#unexpected = new UnexpectedSlot(deps.update);
  }

  /** Judges the boot that started this agent. Called before the first cycle, and again where it failed. */
  async start(): Promise<void> {
    const { update, boot, stateFile, reporter, outbox, data, slots } = this.#deps;
    const { log, stop } = update;
    const { loss, current } = stateFile;
    const remembered = rememberedBoot(loss?.kept ?? current, loss !== undefined, outbox.newest);
    const state = await boot.start(remembered);
    this.#showBoot(state);
    await recoverNotes({ stateFile, outbox, slots, data, reporter, log, stop }, state);
    await locateSlots({ slots, stateFile, log });
    await this.lookAtSlots();
    await this.#noteFactorySlot(state);
    const result = (await this.#unexpected.judge(state)) ?? (await judgeBoot(update, state));
    if (!result) return;
    await this.#showBootAfter(result);
    this.show(result);
  }

  /** One cycle. @throws only programming errors, and the reason of `signal` */
  async cycle(signal: AbortSignal): Promise<CycleResult> {
    const result = await this.#guarded(() => this.#cycle(signal), signal);
    await this.#deps.update.spending.flush();
    await this.lookAtSlots();
    this.show(result);
    await this.#deps.deliver(signal);
    return result;
  }

  async #cycle(signal: AbortSignal): Promise<CycleResult> {
    const { update, reporter } = this.#deps;
    const boot = await this.#deps.boot.read();
    this.#showBoot(boot);
    const judged = (await this.#unexpected.judge(boot)) ?? (await judgeBoot(update, boot));
    if (judged) return this.#showBootAfter(judged);
    const unseen = await this.#noteFactorySlot(boot);
    const context = await update.checker.check(signal);
    if (!('choice' in context)) return context;
    if (!unseen) return this.#showBootAfter(await installUpdate(update, context, { boot, signal }));
    await reporter.report('waiting', { reason: { code: unseen.code, message: unseen.message } });
    throw unseen;
  }

  /**
   * Whether the repository still orders the update that is under way, and nothing newer; false only where that is certain. Used to end
   * downloads.
   */
  async stillWants(signal: AbortSignal): Promise<boolean> {
    const { checker } = this.#deps.update;
    const { update } = this.#deps.stateFile.current;
    if (update?.phase !== 'downloading' && update?.phase !== 'verified') return true;
    const context = await checker.check(signal);
    if (!('choice' in context)) return true;
    return isStillFollowed(this.#deps.update, context, update, signal);
  }

  /** Refreshes and chooses, but changes nothing. */
  async check(signal: AbortSignal): Promise<CheckResult> {
    try {
      return await this.#check(signal);
    } catch (error) {
      signal.throwIfAborted();
      const rest = resultOf(error);
      // Like a cycle: where a cycle would wait, for example for a full disk, that is the answer.
      if (rest?.state !== 'waiting') throw error;
      return { rest, available: undefined };
    }
  }

  async #check(signal: AbortSignal): Promise<CheckResult> {
    const context = await this.#deps.update.checker.check(signal);
    await this.#deps.deliver(signal);
    if (!('choice' in context)) return { rest: context, available: undefined };
    const { choice, facts } = context;
    const [order] = choice.orders;
    const booted = facts.agentState.slots[facts.booted].release;
    const reasonToWait = this.#unexpected.reasonToWait(await this.#deps.boot.read());
    if (reasonToWait)
      return {
        rest: { state: 'waiting', waitingFor: 'reboot', reason: reasonToWait },
        booted,
        available: undefined,
      };
    const onTrial = trialReason(facts.agentState.update, facts.booted);
    if (onTrial) return { rest: { state: 'confirming', reason: onTrial }, booted, available: undefined };
    if (order) {
      const { plan, wait } = await plannedWays(this.#deps.update, context, signal);
      await this.#deps.update.spending.flush();
      const available = { kind: order.kind, release: order.release };
      return { rest: wait ?? { state: 'idle' }, booted, available, ...(plan && { plan }) };
    }
    const { reason } = choice;
    return {
      rest: reason ? { state: reason.state, reason } : { state: 'idle' },
      booted,
      available: undefined,
    };
  }

  /** Sends the reports that are due. */
  deliver(signal: AbortSignal): Promise<void> {
    return this.#deps.deliver(signal);
  }

  #showBoot({ booted, next, trial }: BootState): void {
    const { status } = this.#deps;
    const kind = status.current.boot?.kind ?? 'unknown';
    status.set({ booted, boot: { kind, next, ...(trial && { trial }) } });
  }

  /** Shows what the boot loader has been told in this cycle. */
  async #showBootAfter(result: CycleResult): Promise<CycleResult> {
    if (!CHANGING_BOOT.has(result.state)) return result;
    try {
      this.#showBoot(await this.#deps.boot.read());
    } catch (error) {
      // The machine may be going down. The next cycle reads it anyway.
      if (!(error instanceof SitecastError) && !isSystemError(error)) throw error;
    }
    return result;
  }

  #noteFactorySlot({ booted }: BootState): Promise<SitecastError | undefined> {
    const { slots, stateFile, factoryRelease } = this.#deps;
    return noteFactorySlot({ slots, stateFile, factoryRelease }, booted);
  }

  /** Turns errors into results: a full disk, an unreachable gateway or expired metadata doesn't end the daemon. */
  async #guarded(work: () => Promise<CycleResult>, signal: AbortSignal): Promise<CycleResult> {
    const { status, reporter } = this.#deps;
    try {
      const result = await work();
      await reporter.flush();
      status.set({ storageProblem: reporter.problem ?? storageProblemIn(result) });
      if (result.state === 'clockSuspect') await reporter.report('clockSuspect', { reason: result.reason });
      return result;
    } catch (error) {
      const result = error === signal.reason ? undefined : resultOf(error);
      if (!result) throw error;
      status.set({ storageProblem: storageProblemIn(result) ?? reporter.problem });
      return result;
    }
  }

  /** Updates the slots in the status: a missing slot is shown as missing, not as empty. */
  async lookAtSlots(): Promise<void> {
    const { slotWatch, status } = this.#deps;
    status.set({ slots: await slotWatch.look(status.current.booted) });
  }

  /** Shows in the log and in the status how a cycle ended. */
  show(result: CycleResult): void {
    const { state, reason, waitingFor } = result;
    const { slotWatch, status, stateFile } = this.#deps;
    const { stateChanges, clock, spending } = this.#deps.update;
    stateChanges.cycleEnd(result);
    const { update, barred, lastFailure } = stateFile.current;
    status.set({
      at: new Date(clock.now()).toISOString(),
      state,
      message: reason?.message,
      waitingFor,
      progress: undefined,
      transfer: spending.shown,
      // While a plan waits for something, it stays in the status.
      ...(update || state === 'waiting' ? {} : { plan: undefined, ways: undefined }),
      update,
      barred,
      lastFailure,
      slots: slotWatch.shown,
    });
  }
}

/** Why a running release isn't installed yet: it still has to show that it is good. */
function trialReason(update: AgentState['update'], booted: SlotName): Reason | undefined {
  if (update?.target !== booted) return undefined;
  const what = update.phase === 'fallingBack' ? 'has failed, and the machine goes back' : 'is on trial';
  return { code: 'SITECAST_ON_TRIAL', message: `${update.release.version} in slot ${booted} ${what}` };
}

/** The code of a problem with the data directory, for the status. A full slot has another code. */
function storageProblemIn({ waitingFor, reason }: CycleResult): string | undefined {
  const isOfData = waitingFor === 'space' && reason?.code.startsWith('SITECAST_SYSTEM_') === true;
  return isOfData ? reason.message : undefined;
}
