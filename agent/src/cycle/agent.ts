import { SitecastError } from '@sitecast/shared/errors';
import type { Rollout, RolloutsFile } from '@sitecast/shared/fleet';
import { activationWait, downloadWait, type Wait } from '../decision/activation.ts';
import { lateFallBack } from '../decision/boot-verdict.ts';
import { type Choice, type Facts, objectionTo, type Order, ROLLBACK_IMPOSSIBLE } from '../decision/choose.ts';
import { isSameUpdate, type Memory, type Reason, type SlotRecord, type Update } from '../decision/memory.ts';
import type { BootState, SlotName } from '../ports.ts';
import type { CheckResult, Rest } from '../state/status.ts';
import { Activator } from './activator.ts';
import { settleLateFallBack } from './late-fall-back.ts';
import { recoverNotes, slotsRemembered } from './recover-notes.ts';
import { Installer, type Release } from './installer.ts';
import type { AgentParts } from './parts.ts';
import { Lookout, type Situation } from './lookout.ts';
import { Failed, failureOf, outcomeOf, Postponed, restOf, Superseded } from './rest.ts';

const DEFAULT_OFFLINE_FOR_MS = 24 * 3_600_000;

/** Keeps one device up to date: each `cycle` brings it as far as it gets, and says where it came to rest. */
export class UpdateAgent {
  readonly #parts: AgentParts;
  readonly #installer: Installer;
  readonly #activator: Activator;
  readonly #lookout: Lookout;
  /** The update whose slot was read back whole since this process started. */
  #verified: Update | undefined;
  #boot: BootState | undefined;

  constructor(parts: AgentParts) {
    this.#parts = parts;
    this.#installer = new Installer(parts);
    this.#activator = new Activator(parts);
    this.#lookout = new Lookout(parts);
  }

  /** Before the first cycle, and again where that failed: what does the boot that brought us here mean? */
  async start(): Promise<void> {
    const { boot, memory, status, outbox } = this.#parts;
    const state = await boot.start(slotsRemembered(memory, outbox.newest));
    this.#boot = state;
    status.set({ booted: state.booted });
    await recoverNotes(this.#parts, state);
    if (memory.current.booted === undefined) await this.#firstSight(state.booted);
    const left = lateFallBack(memory.current, state);
    const rest = left ? await settleLateFallBack(this.#parts, left) : await this.#activator.resume(state);
    if (rest) this.show(rest);
  }

  /** What the factory left: it's known to run, and perhaps which release it is. */
  async #firstSight(booted: SlotName): Promise<void> {
    const { memory, slots, settings } = this.#parts;
    const reader = await slots[booted].openForReading();
    await reader?.close();
    const { factoryRelease } = settings;
    const record: SlotRecord =
      reader === undefined
        ? { state: 'empty' }
        : { state: 'altered', isConfirmed: true, ...(factoryRelease ? { release: factoryRelease } : {}) };
    await memory.change({ booted, slots: { ...memory.current.slots, [booted]: record } });
  }

  /** Refreshes, chooses, and does what's to be done. Throws only for programming errors and the signal's reason. */
  async cycle(signal: AbortSignal): Promise<Rest> {
    const rest = await this.#guarded(async () => {
      this.#boot = await this.#parts.boot.read();
      const pending = await this.#activator.resume(this.#boot);
      if (pending) return pending;
      const situation = await this.#lookout.look(signal);
      return 'choice' in situation ? this.#follow(situation, signal) : situation;
    });
    this.show(rest);
    await this.#deliver(signal);
    return rest;
  }

  /** Whether the repository still wants what is being done; false if it certainly doesn't. For the download's watcher. */
  async stillWants(signal: AbortSignal): Promise<boolean> {
    const { update } = this.#parts.memory.current;
    if (update?.phase !== 'downloading' && update?.phase !== 'verified') return true;
    const situation = await this.#lookout.look(signal);
    if (!('choice' in situation)) return true;
    return situation.choice.orders.some(order => isSameUpdate(order, update));
  }

  /** Refreshes and chooses, and does nothing about it. */
  async check(signal: AbortSignal): Promise<CheckResult> {
    const situation = await this.#lookout.look(signal);
    await this.#deliver(signal);
    if (!('choice' in situation)) return { rest: situation, available: undefined };
    const { choice, facts } = situation;
    const [order] = choice.orders;
    const booted = facts.memory.slots[facts.booted].release;
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

  async #follow({ facts, choice, isRefreshed }: Situation, signal: AbortSignal): Promise<Rest> {
    const { memory } = this.#parts;
    const { update } = memory.current;
    if (update && !choice.orders.some(order => isSameUpdate(order, update))) await this.#abandon(update);
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

  async #unordered(why: Choice['reason']): Promise<Rest> {
    if (!why) return { state: 'idle' };
    const { state, rollout, ...reason } = why;
    // An attempt that has ended here was reported with how it ended: that's to stay the last word, but for who can't go back.
    const remembered = this.#parts.memory.current.rollouts.find(({ id }) => id === rollout?.id);
    const hasEnded = (remembered?.ended?.attempt ?? 0) >= (rollout?.attempt ?? 1);
    if (!hasEnded || reason.code === ROLLBACK_IMPOSSIBLE)
      await this.#parts.reporter.report(state, { rollout, reason });
    return { state, reason, waitingFor: state === 'waiting' ? 'rollout' : undefined };
  }

  async #blocked(reason: Reason, order: Order | undefined): Promise<Rest> {
    await this.#parts.reporter.report('blocked', { ...order, reason });
    return { state: 'blocked', reason };
  }

  async #attempt(release: Release, facts: Facts, isRefreshed: boolean, signal: AbortSignal): Promise<Rest> {
    const { memory, reporter, narrator } = this.#parts;
    const { order } = release;
    narrator.order(order);
    try {
      if (!this.#verified || memory.current.update === null || !isSameUpdate(this.#verified, order)) {
        await this.#checkDownload(facts.rollouts, order);
        await this.#installer.install(release, facts.booted, signal);
        this.#verified = memory.current.update ?? undefined;
      }
      return await this.#activate(release, facts, isRefreshed, signal);
    } catch (error) {
      const outcome = outcomeOf(error, signal);
      if (outcome instanceof Failed) return this.#failed(order, outcome.reason);
      await reporter.report('waiting', { ...order, reason: outcome.rest.reason });
      return outcome.rest;
    }
  }

  async #activate(
    { order }: Release,
    facts: Facts,
    isRefreshed: boolean,
    signal: AbortSignal,
  ): Promise<Rest> {
    const { memory } = this.#parts;
    const { update } = memory.current;
    if (!update || !this.#boot) throw new TypeError('there is a verified update by now');
    await this.#checkSchedule(facts.rollouts, order, isRefreshed);
    await this.#activator.takeLease(update, signal);
    try {
      await this.#activator.preInstall(update, signal);
      // Once more, right before the point of no return: a pause or abort that has come by now still holds.
      const again = await this.#lookout.look(signal);
      if (!('choice' in again)) throw new Postponed('gateway', again.reason ?? unknownReason);
      if (!again.choice.orders.some(candidate => isSameUpdate(candidate, update)))
        throw new Superseded(order.release.version);
      await this.#checkSchedule(again.facts.rollouts, order, again.isRefreshed);
    } catch (error) {
      await this.#activator.returnLease(update);
      if (error instanceof Superseded) return this.#superseded(update);
      throw error;
    }
    this.#verified = undefined;
    return this.#activator.activate(update, this.#boot);
  }

  async #checkDownload(rollouts: RolloutsFile, order: Order): Promise<void> {
    const rollout = rollouts.rollouts.find(({ id }) => id === order.rollout.id);
    if (!rollout || order.kind === 'rollBack') return;
    const { clock, trust } = this.#parts;
    const isSynchronised = await clock.isSynchronised();
    postpone(downloadWait({ nowMs: clock.now(), clock: trust.clock(), isSynchronised, rollout }));
  }

  async #checkSchedule(rollouts: RolloutsFile, order: Order, isRefreshed: boolean): Promise<void> {
    const { clock, trust, settings, memory } = this.#parts;
    const rollout: Pick<Rollout, 'notBefore' | 'window' | 'offlineForMs'> = rollouts.rollouts.find(
      ({ id }) => id === order.rollout.id,
    ) ?? { offlineForMs: DEFAULT_OFFLINE_FOR_MS };
    const lastActivationMs = Date.parse(memory.current.lastActivationAt ?? '');
    const wait = activationWait({
      nowMs: clock.now(),
      clock: trust.clock(),
      isSynchronised: await clock.isSynchronised(),
      isRefreshed,
      isUrgent: order.kind === 'rollBack',
      rollout,
      minIntervalMs: settings.minActivationIntervalMs,
      lastActivationMs: Number.isNaN(lastActivationMs) ? undefined : lastActivationMs,
    });
    postpone(wait);
  }

  async #superseded(update: Update): Promise<Rest> {
    await this.#abandon(update);
    // What holds instead, the next cycle finds out at once.
    return { state: 'idle', retryMs: 0 };
  }

  async #abandon(update: Update): Promise<void> {
    const { memory, reporter } = this.#parts;
    this.#verified = undefined;
    const message = `the rollout of ${update.release.version} no longer wants it`;
    await reporter.report('idle', { ...update, reason: { code: 'SITECAST_ROLLOUT_STOPPED', message } });
    await memory.change({ update: null });
    this.#parts.status.set({ progress: undefined, plan: undefined });
  }

  async #failed(order: Order, reason: Reason): Promise<Rest> {
    const { memory, reporter, clock } = this.#parts;
    await reporter.report('failed', { ...order, reason }, true);
    const at = new Date(clock.now()).toISOString();
    const ended = { attempt: order.rollout.attempt, outcome: 'failed' as const };
    this.#verified = undefined;
    await memory.change({
      update: null,
      rollouts: memory.current.rollouts.map(entry =>
        entry.id === order.rollout.id ? { ...entry, ended } : entry,
      ),
      lastFailure: { at, reason, release: order.release },
    });
    return { state: 'failed', reason };
  }

  /** A full disk, an unreachable gateway, expired metadata: nothing that should end the daemon. */
  async #guarded(work: () => Promise<Rest>): Promise<Rest> {
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

  /** In the log and in the status. */
  show(rest: Rest): void {
    const { state, reason, waitingFor } = rest;
    const { status, memory, slots, narrator } = this.#parts;
    narrator.rest(rest);
    const { update, barred, lastFailure, slots: records } = memory.current;
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
      slots: slotsOf(records, slots),
    });
  }
}

/** What the status shows of the slots. */
export function slotsOf(
  records: Memory['slots'],
  slots: AgentParts['slots'],
): AgentParts['status']['current']['slots'] {
  return { A: { ...records.A, path: slots.A.path }, B: { ...records.B, path: slots.B.path } };
}

const unknownReason: Reason = {
  code: 'SITECAST_METADATA_UNKNOWN',
  message: 'nothing is known of the repository',
};

/** @throws Postponed, if there is something to wait for */
function postpone(wait: Wait | undefined): void {
  if (!wait) return;
  const code = `SITECAST_WAITING_${wait.for.toUpperCase()}`;
  throw new Postponed(wait.for, { code, message: wait.message }, wait.retryMs);
}

function failedWith(error: unknown): Failed {
  if (error instanceof Failed) return error;
  if (error instanceof SitecastError && error.kind === 'badInput')
    return new Failed({ code: error.code, message: error.message });
  throw error;
}
