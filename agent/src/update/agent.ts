import { SitecastError } from '@sitecast/shared/errors';
import { lateFallBack } from './boot-verdict.ts';
import { type Choice, type Facts, objectionTo, type Order, ROLLBACK_IMPOSSIBLE } from './choose.ts';
import { isSameUpdate, type Reason, type SlotRecord, type Update } from '../state/agent-state.ts';
import { rememberedBoot } from './remembered-boot.ts';
import type { BootState, SlotName, SlotReader } from '../ports.ts';
import type { CheckResult, CycleResult } from '../state/status.ts';
import { ActivationChecks, noLongerWanted } from './activation-checks.ts';
import { Activator } from './activator.ts';
import { settleLateFallBack } from './late-fall-back.ts';
import { recoverNotes } from './recover-notes.ts';
import { Installer, type Release } from './installer.ts';
import type { AgentParts } from './parts.ts';
import { UpdateChecker, type UpdateContext } from './update-checker.ts';
import { Failed, failureOf, outcomeOf, restOf, SlotAltered, Superseded } from './result.ts';
import { locateSlot, locateSlots } from './slot-places.ts';

/** A slot that was verified, read back wrong, filled anew and is wrong again: something keeps writing there. */
const MAX_REFILLS = 1;

/** Keeps one device up to date: each `cycle` brings it as far as it gets, and says where it came to rest. */
export class UpdateAgent {
  readonly #parts: AgentParts;
  readonly #installer: Installer;
  readonly #activator: Activator;
  readonly #checker: UpdateChecker;
  readonly #checks: ActivationChecks;
  /** The update whose slot was read back whole since this process started. */
  #verified: Update | undefined;
  #boot: BootState | undefined;

  constructor(parts: AgentParts) {
    this.#parts = parts;
    this.#installer = new Installer(parts);
    this.#activator = new Activator(parts);
    this.#checker = new UpdateChecker(parts);
    this.#checks = new ActivationChecks(parts, {
      installer: this.#installer,
      activator: this.#activator,
      checker: this.#checker,
    });
  }

  /** Before the first cycle, and again where that failed: what does the boot that brought us here mean? */
  async start(): Promise<void> {
    const { boot, stateFile, status, outbox } = this.#parts;
    const { loss, current } = stateFile;
    const remembered = rememberedBoot(loss?.kept ?? current, loss !== undefined, outbox.newest);
    const state = await boot.start(remembered);
    this.#boot = state;
    status.set({ booted: state.booted });
    await recoverNotes(this.#parts, state);
    await locateSlots(this.#parts);
    await this.lookAtSlots();
    await this.#firstSight(state.booted);
    const left = lateFallBack(stateFile.current, state);
    const rest = left ? await settleLateFallBack(this.#parts, left) : await this.#activator.resume(state);
    if (rest) this.show(rest);
  }

  /**
   * What the factory left: it's known to run, and perhaps which release it is.
   * @returns why that can't be seen yet: a device that comes late isn't an empty slot
   */
  async #firstSight(booted: SlotName): Promise<SitecastError | undefined> {
    const { stateFile, slots, settings } = this.#parts;
    if (stateFile.current.booted !== undefined) return undefined;
    let reader: SlotReader | undefined;
    try {
      await locateSlot(this.#parts, booted);
      reader = await slots[booted].openForReading();
    } catch (error) {
      if (error instanceof SitecastError && error.code === 'SITECAST_SLOT_MISSING') return error;
      throw error;
    }
    await reader?.close();
    const { factoryRelease } = settings;
    const record: SlotRecord =
      reader === undefined
        ? { state: 'empty' }
        : { state: 'altered', isConfirmed: true, ...(factoryRelease ? { release: factoryRelease } : {}) };
    await stateFile.change({ booted, slots: { ...stateFile.current.slots, [booted]: record } });
    return undefined;
  }

  /** Refreshes, chooses, and does what's to be done. Throws only for programming errors and the signal's reason. */
  async cycle(signal: AbortSignal): Promise<CycleResult> {
    const rest = await this.#guarded(async () => {
      this.#boot = await this.#parts.boot.read();
      const pending = await this.#activator.resume(this.#boot);
      if (pending) return pending;
      const unseen = await this.#firstSight(this.#boot.booted);
      const context = await this.#checker.look(signal);
      if (!('choice' in context)) return context;
      return unseen ? this.#waitForSlot(unseen) : this.#follow(context, signal);
    });
    await this.lookAtSlots();
    this.show(rest);
    await this.#deliver(signal);
    return rest;
  }

  /** Whether the repository still wants what is being done; false if it certainly doesn't. For the download's watcher. */
  async stillWants(signal: AbortSignal): Promise<boolean> {
    const { update } = this.#parts.stateFile.current;
    if (update?.phase !== 'downloading' && update?.phase !== 'verified') return true;
    const context = await this.#checker.look(signal);
    if (!('choice' in context)) return true;
    return context.choice.orders.some(order => isSameUpdate(order, update));
  }

  /** Refreshes and chooses, and does nothing about it. */
  async check(signal: AbortSignal): Promise<CheckResult> {
    const context = await this.#checker.look(signal);
    await this.#deliver(signal);
    if (!('choice' in context)) return { rest: context, available: undefined };
    const { choice, facts } = context;
    const [order] = choice.orders;
    const booted = facts.agentState.slots[facts.booted].release;
    if (order)
      return { rest: { state: 'idle' }, booted, available: { kind: order.kind, release: order.release } };
    const { reason } = choice;
    return {
      rest: reason ? { state: reason.state, reason } : { state: 'idle' },
      booted,
      available: undefined,
    };
  }

  /** Sends what's due of the reports. */
  async deliver(signal: AbortSignal): Promise<void> {
    await this.#deliver(signal);
  }

  async #follow({ facts, choice, isRefreshed }: UpdateContext, signal: AbortSignal): Promise<CycleResult> {
    const { stateFile } = this.#parts;
    const { update } = stateFile.current;
    if (update && !choice.orders.some(order => isSameUpdate(order, update)))
      await this.#abandon(update, noLongerWanted(update));
    let objection: Reason | undefined;
    for (const order of choice.orders) {
      const manifest = await this.#installer.manifestOf(order, signal).catch(failedWith);
      const problem = manifest instanceof Failed ? manifest.reason : objectionTo(order, manifest, facts);
      if (!problem && !(manifest instanceof Failed)) {
        const release = await this.#installer.load(order, manifest, signal);
        return this.#attempt(release, facts, isRefreshed, signal);
      }
      objection ??= problem;
      if (problem?.code !== 'SITECAST_STEPPING_STONE') break;
    }
    if (objection) return this.#blocked(objection, choice.orders[0]);
    return this.#unordered(choice.reason);
  }

  async #waitForSlot(error: SitecastError): Promise<CycleResult> {
    const { reporter } = this.#parts;
    await reporter.report('waiting', { reason: { code: error.code, message: error.message } });
    throw error;
  }

  async #unordered(why: Choice['reason']): Promise<CycleResult> {
    if (!why) return { state: 'idle' };
    const { state, rollout, ...reason } = why;
    // An attempt that has ended here was reported with how it ended: that's to stay the last word, but for who can't go back.
    const remembered = this.#parts.stateFile.current.rollouts.find(({ id }) => id === rollout?.id);
    const hasEnded = (remembered?.ended?.attempt ?? 0) >= (rollout?.attempt ?? 1);
    if (!hasEnded || reason.code === ROLLBACK_IMPOSSIBLE)
      await this.#parts.reporter.report(state, { rollout, reason });
    return { state, reason, waitingFor: state === 'waiting' ? 'rollout' : undefined };
  }

  async #blocked(reason: Reason, order: Order | undefined): Promise<CycleResult> {
    await this.#parts.reporter.report('blocked', { ...order, reason });
    return { state: 'blocked', reason };
  }

  async #attempt(
    release: Release,
    facts: Facts,
    isRefreshed: boolean,
    signal: AbortSignal,
  ): Promise<CycleResult> {
    const { reporter, stateChanges } = this.#parts;
    const { order } = release;
    stateChanges.order(order);
    try {
      return await this.#installAndActivate(release, facts, isRefreshed, signal);
    } catch (error) {
      const outcome = outcomeOf(error, signal);
      if (outcome instanceof Failed) return this.#failed(order, outcome.reason);
      await reporter.report('waiting', { ...order, reason: outcome.rest.reason });
      return outcome.rest;
    }
  }

  async #installAndActivate(
    release: Release,
    facts: Facts,
    isRefreshed: boolean,
    signal: AbortSignal,
  ): Promise<CycleResult> {
    const { stateFile, clock, log } = this.#parts;
    const { order } = release;
    for (let refills = 0; ; refills += 1) {
      let verifiedAtMs: number | undefined;
      if (!this.#verified || stateFile.current.update === null || !isSameUpdate(this.#verified, order)) {
        await this.#checks.checkDownload(facts.rollouts, order);
        await this.#installer.install(release, facts.booted, signal);
        this.#verified = stateFile.current.update ?? undefined;
        verifiedAtMs = clock.now();
      }
      try {
        return await this.#activate(release, facts, { isRefreshed, verifiedAtMs }, signal);
      } catch (error) {
        if (!(error instanceof SlotAltered)) throw error;
        this.#verified = undefined;
        log('warn', `${error.message}; it is filled again`);
        if (refills >= MAX_REFILLS)
          throw new Failed({ code: 'SITECAST_SLOT_UNRELIABLE', message: error.message });
      }
    }
  }

  async #activate(
    release: Release,
    facts: Facts,
    check: { isRefreshed: boolean; verifiedAtMs: number | undefined },
    signal: AbortSignal,
  ): Promise<CycleResult> {
    const { update } = this.#parts.stateFile.current;
    if (!update || !this.#boot) throw new TypeError('there is a verified update by now');
    try {
      await this.#checks.pass({ ...check, release, rollouts: facts.rollouts, update }, signal);
    } catch (error) {
      if (error instanceof Superseded) return this.#superseded(update, error.message);
      throw error;
    }
    this.#verified = undefined;
    return this.#activator.activate(update, this.#boot);
  }

  async #superseded(update: Update, message: string): Promise<CycleResult> {
    await this.#abandon(update, message);
    // What holds instead, the next cycle finds out at once.
    return { state: 'idle', retryMs: 0 };
  }

  async #abandon(update: Update, message: string): Promise<void> {
    const { stateFile, reporter } = this.#parts;
    this.#verified = undefined;
    await reporter.report('idle', { ...update, reason: { code: 'SITECAST_ROLLOUT_STOPPED', message } });
    await stateFile.change({ update: null });
    this.#parts.status.set({ progress: undefined, plan: undefined });
  }

  async #failed(order: Order, reason: Reason): Promise<CycleResult> {
    const { stateFile, reporter, clock } = this.#parts;
    await reporter.report('failed', { ...order, reason }, true);
    const at = new Date(clock.now()).toISOString();
    const ended = { attempt: order.rollout.attempt, outcome: 'failed' as const };
    this.#verified = undefined;
    await stateFile.change({
      update: null,
      rollouts: stateFile.current.rollouts.map(entry =>
        entry.id === order.rollout.id ? { ...entry, ended } : entry,
      ),
      lastFailure: { at, reason, release: order.release },
    });
    return { state: 'failed', reason };
  }

  /** A full disk, an unreachable gateway, expired metadata: nothing that should end the daemon. */
  async #guarded(work: () => Promise<CycleResult>): Promise<CycleResult> {
    const { status, reporter } = this.#parts;
    try {
      const rest = await work();
      await reporter.flush();
      status.set({ storageProblem: reporter.problem });
      if (rest.state === 'clockSuspect') await reporter.report('clockSuspect', { reason: rest.reason });
      return rest;
    } catch (error) {
      const rest = restOf(error) ?? failureOf(error);
      if (!rest) throw error;
      if (rest.waitingFor === 'space') status.set({ storageProblem: rest.reason?.message });
      return rest;
    }
  }

  async #deliver(signal: AbortSignal): Promise<void> {
    const { delivery, trust, outbox, status, reporter, gateways, exchange } = this.#parts;
    await delivery.run(trust.signers, signal);
    const problem = reporter.problem ?? delivery.refusal;
    const { heard } = gateways;
    status.set({
      reports: { pending: outbox.pendingCount, problem },
      ...(exchange ? { peers: { ...exchange.counts } } : {}),
      ...(heard ? { heard: { url: heard.url, at: new Date(heard.atMs).toISOString() } } : {}),
    });
  }

  /** For the status: a slot that is missing isn't an empty one. */
  async lookAtSlots(): Promise<void> {
    const { slotWatch, status } = this.#parts;
    status.set({ slots: await slotWatch.look(status.current.booted) });
  }

  /** In the log and in the status. */
  show(rest: CycleResult): void {
    const { state, reason, waitingFor } = rest;
    const { status, stateFile, slotWatch, stateChanges } = this.#parts;
    stateChanges.rest(rest);
    const { update, barred, lastFailure } = stateFile.current;
    status.set({
      at: new Date(this.#parts.clock.now()).toISOString(),
      state,
      message: reason?.message,
      waitingFor,
      progress: undefined,
      ...(update ? {} : { plan: undefined }),
      update,
      barred,
      lastFailure,
      slots: slotWatch.shown,
    });
  }
}

function failedWith(error: unknown): Failed {
  if (error instanceof Failed) return error;
  if (error instanceof SitecastError && error.kind === 'badInput')
    return new Failed({ code: error.code, message: error.message });
  throw error;
}
