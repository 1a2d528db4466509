import { isSystemError } from '@sitecast/shared/errors';
import { bootVerdict } from './boot-verdict.ts';
import {
  type BarredRelease,
  type AgentState,
  ROLLBACK_ORDERED,
  type Reason,
  type RolloutRecord,
  type Update,
} from '../state/agent-state.ts';
import { type BootState, otherSlot, type SlotName } from '../ports.ts';
import type { CycleResult } from '../state/status.ts';
import { runHook } from './hooks.ts';
import { Leases } from './leases.ts';
import type { AgentParts } from './parts.ts';
import { askedOnceMore, Reboots } from './reboots.ts';
import { Failed, Postponed } from './result.ts';

/** The first boot, and one more for a power cut. */
const TRIAL_BOOTS = 2;

type Activated = Pick<Update, 'rollout' | 'release'>;

/** Makes a verified slot the one that runs, proves it, and confirms it or falls back. */
export class Activator {
  readonly #parts: AgentParts;
  readonly #leases: Leases;
  readonly #reboots: Reboots;

  constructor(parts: AgentParts) {
    this.#parts = parts;
    this.#leases = new Leases(parts);
    this.#reboots = new Reboots(parts);
  }

  /** @throws Postponed while the site has too many devices down */
  takeLease({ rollout }: Activated, signal: AbortSignal): Promise<void> {
    return this.#leases.take(rollout.id, signal);
  }

  /** Health checks, an operator's word or reading a slot back may take longer than a lease: meanwhile it's renewed. */
  keepLease({ rollout }: Activated): () => void {
    return this.#leases.keep(rollout.id);
  }

  returnLease({ rollout }: Activated): Promise<void> {
    return this.#leases.giveBack(rollout.id);
  }

  async preInstall(update: Update, signal: AbortSignal): Promise<void> {
    await this.#hook('pre-install', update, signal);
  }

  /** From here on there's no way back but through a boot. @returns where it came to rest after that boot */
  async activate(update: Update, booted: BootState): Promise<CycleResult> {
    const { stateFile, clock, reporter, status } = this.#parts;
    const { target } = update;
    status.set({ state: 'installing', message: `telling the boot loader to try slot ${target}` });
    await reporter.report('installing', update, true);
    const activating: Update = {
      ...update,
      phase: 'activating',
      bootId: booted.bootId,
      powerLosses: 0,
      rebootsAsked: undefined,
    };
    await stateFile.change({
      update: activating,
      lastActivationAt: new Date(clock.now()).toISOString(),
      rollouts: noteOrigin(stateFile.current, update, booted.booted),
    });
    await this.#tellLoader(target);
    const rebooting: Update = { ...activating, phase: 'rebooting' };
    await stateFile.change({ update: rebooting });
    return this.#reboot(rebooting);
  }

  async #tellLoader(target: SlotName): Promise<void> {
    const { boot, log, stop } = this.#parts;
    try {
      await boot.setTrial(target, TRIAL_BOOTS);
    } catch (error) {
      if (isSystemError(error) || stop.aborted) throw error;
      // It may have taken note all the same; nobody would watch over that boot.
      await boot
        .markBad(target)
        .catch((also: unknown) => log('error', 'a slot could not be marked as bad', { err: also }));
      throw error;
    }
  }

  /** Takes up an activation where the last boot, or the end of the agent, left it. Undefined: there's none. */
  async resume(boot: BootState): Promise<CycleResult | undefined> {
    const { update } = this.#parts.stateFile.current;
    if (!update) return undefined;
    switch (bootVerdict(update, boot)) {
      case 'notTold':
        if (update.phase === 'activating') await this.#change(update, { phase: 'verified' });
        return undefined;
      case 'askAgain':
        return update.phase === 'fallingBack' ? this.#leave(update) : this.#reboot(update);
      case 'firstBoot':
        // Where the power did the rebooting, nobody has said so yet.
        await this.#parts.reporter.report('rebooting', update, true);
        return this.#prove(await this.#change(update, { phase: 'confirming', bootId: boot.bootId }));
      case 'sameBoot':
        return this.#prove(update);
      case 'powerLoss':
        return this.#proveAgain(update, boot);
      case 'confirmed':
        return this.#confirm(update);
      case 'bootCountExhausted':
        return this.#fallenBack(await this.#giveUp(update, exhausted(update)));
      default:
        return this.#fallenBack(update);
    }
  }

  async #reboot(update: Update): Promise<CycleResult> {
    const { boot, reporter, status } = this.#parts;
    const resting = this.#reboots.restingIn(update);
    if (resting) return resting;
    if (this.#reboots.isInVain(update)) {
      const { booted } = await boot.read();
      if (booted !== update.target) return this.#neverRebooted(update, booted);
    }
    if (update.rebootsAsked === undefined)
      for (const name of ['post-install', 'pre-reboot'] as const) await this.#lateHook(name, update);
    status.set({ state: 'rebooting', message: `booting slot ${update.target}` });
    await reporter.report('rebooting', update, true);
    const asking = await this.#change(update, askedOnceMore(update));
    return this.#afterReboot(asking, update.bootId);
  }

  /** Most machines are gone before this ends; others just restarted what they run. */
  async #afterReboot(update: Update, bootId: string | undefined): Promise<CycleResult> {
    const found = await this.#reboots.ask(update, bootId);
    if (!('bootId' in found)) return found;
    this.#parts.status.set({ booted: found.booted });
    return (await this.resume(found)) ?? { state: 'idle' };
  }

  /** The machine doesn't boot, however often it's asked to: what runs goes on running, and the attempt is over. */
  async #neverRebooted(update: Update, booted: SlotName): Promise<CycleResult> {
    const { boot, stateFile, reporter, clock } = this.#parts;
    const reason = this.#reboots.neverCame(update);
    await boot.setNext(booted);
    await boot.markBad(update.target);
    await reporter.report('failed', { ...update, reason }, true);
    const at = new Date(clock.now()).toISOString();
    const { current } = stateFile;
    await stateFile.change({
      update: null,
      slots: { ...current.slots, [update.target]: { ...current.slots[update.target], state: 'bad' } },
      rollouts: noteEnd(current, update, 'failed'),
      lastFailure: { at, reason, release: update.release },
    });
    await this.returnLease(update);
    return { state: 'failed', reason };
  }

  async #proveAgain(update: Update, boot: BootState): Promise<CycleResult> {
    const powerLosses = (update.powerLosses ?? 0) + 1;
    // The loader counts, too; this is for one that doesn't.
    if (powerLosses >= TRIAL_BOOTS) return this.#fallBack(update, exhausted(update));
    const reason = {
      code: 'powerLoss',
      message: `slot ${update.target} was interrupted while proving itself`,
    };
    await this.#parts.reporter.report('confirming', { ...update, reason }, true);
    return this.#prove(await this.#change(update, { bootId: boot.bootId, powerLosses }));
  }

  async #prove(update: Update): Promise<CycleResult> {
    const stopRenewing = this.keepLease(update);
    try {
      return await this.#proveOnLease(update);
    } finally {
      stopRenewing();
    }
  }

  async #proveOnLease(update: Update): Promise<CycleResult> {
    const { reporter, status, stop } = this.#parts;
    status.set({ state: 'confirming', message: `health checks of slot ${update.target}` });
    await reporter.report('confirming', update, true);
    const subject = { slot: update.target, release: update.release };
    const health = await runHook(this.#parts, 'health', subject, stop);
    if (health.kind !== 'done')
      return this.#fallBack(update, { code: 'healthFailed', message: health.message });
    if (await this.#isConfirmedInTime(update))
      return this.#confirm(await this.#change(update, { phase: 'confirmed' }));
    return this.#fallBack(update, { code: 'confirmTimedOut', message: 'nobody confirmed the slot in time' });
  }

  async #isConfirmedInTime({ target }: Update): Promise<boolean> {
    const { settings, confirmation, clock, status, stop } = this.#parts;
    const { confirmWithinMs } = settings;
    if (confirmWithinMs === undefined) return true;
    status.set({ waitingFor: 'confirm', message: `slot ${target} waits for \`sitecast-agent confirm\`` });
    const isConfirmed = await confirmation.wait(given =>
      clock.sleep(confirmWithinMs, AbortSignal.any([given, stop])),
    );
    // Whoever stops the agent has not said that the time is up.
    if (!isConfirmed) stop.throwIfAborted();
    return isConfirmed;
  }

  async #confirm(update: Update): Promise<CycleResult> {
    const { boot, stateFile, reporter } = this.#parts;
    await boot.confirm(update.target);
    const outcome = update.kind === 'rollBack' ? 'rolledBack' : 'completed';
    const reason = update.kind === 'rollBack' ? { reason: ordered } : {};
    await reporter.report(outcome, { ...update, ...reason }, true);
    const record = stateFile.current.slots[update.target];
    await stateFile.change({
      update: null,
      slots: {
        ...stateFile.current.slots,
        [update.target]: { ...record, isConfirmed: true, rollout: update.rollout },
      },
      rollouts: noteEnd(stateFile.current, update, outcome),
      lastFailure: undefined,
      booted: update.target,
    });
    await this.returnLease(update);
    return { state: outcome };
  }

  async #fallBack(update: Update, reason: Reason): Promise<CycleResult> {
    return this.#leave(await this.#giveUp(update, reason));
  }

  async #giveUp(update: Update, reason: Reason): Promise<Update> {
    return this.#change(update, { phase: 'fallingBack', failure: reason, rebootsAsked: 0 });
  }

  /** Back to the other slot, by a boot. */
  async #leave(update: Update): Promise<CycleResult> {
    const { boot, reporter, status } = this.#parts;
    const resting = this.#reboots.restingIn(update);
    if (resting) return resting;
    const { failure } = update;
    status.set({
      state: 'rebooting',
      message: `falling back to slot ${otherSlot(update.target)}: ${failure?.message}`,
    });
    await reporter.report('failed', { ...update, reason: failure }, true);
    const { bootId } = await boot.read();
    await boot.setNext(otherSlot(update.target));
    return this.#afterReboot(await this.#change(update, askedOnceMore(update)), bootId);
  }

  async #fallenBack(update: Update): Promise<CycleResult> {
    const { boot, stateFile, reporter, clock } = this.#parts;
    const reason = update.failure ?? exhausted(update);
    await reporter.report('failed', { ...update, reason }, true);
    await boot.setNext(otherSlot(update.target));
    await boot.markBad(update.target);
    await reporter.report('rolledBack', { ...update, reason }, true);
    const at = new Date(clock.now()).toISOString();
    const barred: BarredRelease = {
      counter: update.release.counter,
      version: update.release.version,
      attempt: update.rollout.attempt,
      reason,
      at,
    };
    const { current } = stateFile;
    await stateFile.change({
      update: null,
      slots: { ...current.slots, [update.target]: { ...current.slots[update.target], state: 'bad' } },
      rollouts: noteEnd(current, update, update.kind === 'rollBack' ? 'rolledBack' : 'failed'),
      barred: [...current.barred.filter(entry => entry.counter !== barred.counter), barred],
      lastFailure: { at, reason, release: update.release },
      booted: otherSlot(update.target),
    });
    await this.returnLease(update);
    return { state: 'rolledBack', reason };
  }

  async #change(update: Update, changes: Partial<Update>): Promise<Update> {
    const changed = { ...update, ...changes };
    await this.#parts.stateFile.change({ update: changed });
    this.#parts.status.set({ update: changed });
    return changed;
  }

  async #hook(name: 'pre-install', update: Update, signal: AbortSignal): Promise<void> {
    const result = await runHook(this.#parts, name, { slot: update.target, release: update.release }, signal);
    if (result.kind === 'failed') throw new Failed({ code: 'SITECAST_HOOK_FAILED', message: result.message });
    if (result.kind === 'notNow')
      throw new Postponed('hook', { code: 'SITECAST_HOOK_NOT_NOW', message: result.message });
  }

  /** The loader has been told: these can warn, but not stop it any more. Cut off, they run again, before the first asking. */
  async #lateHook(name: 'post-install' | 'pre-reboot', update: Update): Promise<void> {
    const subject = { slot: update.target, release: update.release };
    await runHook(this.#parts, name, subject, this.#parts.stop);
  }
}

/** An operator did it, or the origin by itself: the signed order doesn't say. */
const ordered: Reason = { code: ROLLBACK_ORDERED, message: 'the rollout was rolled back' };

function exhausted(update: Update): Reason {
  return {
    code: 'bootCountExhausted',
    message: `slot ${update.target} did not prove itself within ${TRIAL_BOOTS} boots`,
  };
}

function noteOrigin(stateFile: AgentState, update: Update, booted: SlotName): RolloutRecord[] {
  if (update.kind === 'rollBack') return stateFile.rollouts;
  const cameFrom = stateFile.slots[booted].release;
  return stateFile.rollouts.map(entry =>
    entry.id === update.rollout.id && cameFrom ? { ...entry, cameFrom } : entry,
  );
}

function noteEnd(
  stateFile: AgentState,
  { rollout }: Update,
  outcome: 'completed' | 'failed' | 'rolledBack',
): RolloutRecord[] {
  return stateFile.rollouts.map(entry =>
    entry.id === rollout.id ? { ...entry, ended: { attempt: rollout.attempt, outcome } } : entry,
  );
}
