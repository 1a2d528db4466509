import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { bootVerdict } from '../decision/boot-verdict.ts';
import type { BarredRelease, Memory, Reason, RolloutMemory, Update } from '../decision/memory.ts';
import { type BootState, otherSlot, type SlotName } from '../ports.ts';
import { fieldOf } from '../site/membership.ts';
import type { Rest } from '../state/status.ts';
import { runHook } from './hooks.ts';
import type { AgentParts } from './parts.ts';
import { Failed, Postponed } from './rest.ts';

/** The first boot, and one more for a power cut. */
const TRIAL_BOOTS = 2;
/** How long a reboot that was asked for may take to begin, milliseconds. */
const REBOOT_PATIENCE_MS = 60_000;
const REBOOT_LOOK_EVERY_MS = 250;
/** A third of what a gateway grants. */
const LEASE_RENEWAL_MS = 5 * 60_000;
const DEFAULT_LEASE_RETRY_MS = 10_000;
const MAX_LEASE_RETRY_MS = 10 * 60_000;

type Activated = Pick<Update, 'rollout' | 'release'>;

/** Makes a verified slot the one that runs, proves it, and confirms it or falls back. */
export class Activator {
  readonly #parts: AgentParts;

  constructor(parts: AgentParts) {
    this.#parts = parts;
  }

  /** @throws Postponed while the site has too many devices down */
  async takeLease({ rollout }: Activated, signal: AbortSignal): Promise<void> {
    const granted = await this.#lease('take', rollout.id, signal);
    if (granted === true) return;
    const jitter = 0.5 + Math.random();
    throw new Postponed(
      'lease',
      { code: 'SITECAST_LEASE_DENIED', message: 'other devices of this site are being updated' },
      Math.min(granted * jitter, MAX_LEASE_RETRY_MS),
    );
  }

  async returnLease({ rollout }: Activated): Promise<void> {
    try {
      await this.#lease('return', rollout.id);
    } catch (error) {
      // It runs out by itself.
      if (!(error instanceof SitecastError) && !(error instanceof Postponed)) throw error;
    }
  }

  async preInstall(update: Update, signal: AbortSignal): Promise<void> {
    await this.#hook('pre-install', update, signal);
  }

  /** From here on there's no way back but through a boot. @returns where it came to rest after that boot */
  async activate(update: Update, booted: BootState): Promise<Rest> {
    const { memory, clock, reporter, status, passPoint } = this.#parts;
    const { target } = update;
    status.set({ state: 'installing', message: `telling the boot loader to try slot ${target}` });
    await reporter.report('installing', update, true);
    const activating: Update = { ...update, phase: 'activating', bootId: booted.bootId, powerLosses: 0 };
    await memory.change({
      update: activating,
      lastActivationAt: new Date(clock.now()).toISOString(),
      rollouts: noteOrigin(memory.current, update, booted.booted),
    });
    await this.#tellLoader(target);
    passPoint('trial set');
    const rebooting: Update = { ...activating, phase: 'rebooting' };
    await memory.change({ update: rebooting });
    for (const name of ['post-install', 'pre-reboot'] as const) await this.#lateHook(name, rebooting);
    return this.#reboot(rebooting);
  }

  async #tellLoader(target: SlotName): Promise<void> {
    const { boot, log } = this.#parts;
    try {
      await boot.setTrial(target, TRIAL_BOOTS);
    } catch (error) {
      if (isSystemError(error)) throw error;
      // It may have taken note all the same; nobody would watch over that boot.
      await boot.markBad(target).catch((also: unknown) => log('error', String(also)));
      throw error;
    }
  }

  /** Takes up an activation where the last boot, or the end of the agent, left it. Undefined: there's none. */
  async resume(boot: BootState): Promise<Rest | undefined> {
    const { update } = this.#parts.memory.current;
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
        return this.#prove(await this.#change(update, { phase: 'confirming', bootId: boot.bootId }));
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

  async #reboot(update: Update): Promise<Rest> {
    const { boot, reporter, status, passPoint } = this.#parts;
    status.set({ state: 'rebooting', message: `booting slot ${update.target}` });
    await reporter.report('rebooting', update, true);
    passPoint('reboot');
    await boot.reboot();
    return this.#afterReboot(update.bootId);
  }

  /** Most machines are gone before this ends; others just restarted what they run. */
  async #afterReboot(bootId: string | undefined): Promise<Rest> {
    const { boot, clock } = this.#parts;
    for (let waitedMs = 0; waitedMs < REBOOT_PATIENCE_MS; waitedMs += REBOOT_LOOK_EVERY_MS) {
      const state = await boot.read();
      if (state.bootId !== bootId) {
        this.#parts.status.set({ booted: state.booted });
        return (await this.resume(state)) ?? { state: 'idle' };
      }
      await clock.sleep(REBOOT_LOOK_EVERY_MS);
    }
    return {
      state: 'rebooting',
      reason: { code: 'SITECAST_REBOOT_PENDING', message: 'the reboot has not begun' },
    };
  }

  async #proveAgain(update: Update, boot: BootState): Promise<Rest> {
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

  async #prove(update: Update): Promise<Rest> {
    const stopRenewing = this.keepLease(update);
    try {
      return await this.#proveOnLease(update);
    } finally {
      stopRenewing();
    }
  }

  /** Health checks, an operator's word or reading a slot back may take longer than a lease: meanwhile it's renewed. */
  keepLease({ rollout }: Activated): () => void {
    const { clock, log } = this.#parts;
    const stop = new AbortController();
    const { signal } = stop;
    const renew = async (): Promise<void> => {
      for (;;) {
        await clock.sleep(LEASE_RENEWAL_MS, signal);
        if (signal.aborted) return;
        // What doesn't come through changes nothing: this device is down already.
        await this.#lease('renew', rollout.id, signal).catch((error: unknown) =>
          log('warn', `the lease isn't renewed: ${String(error)}`),
        );
      }
    };
    void renew();
    return () => stop.abort();
  }

  async #proveOnLease(update: Update): Promise<Rest> {
    const { reporter, status } = this.#parts;
    status.set({ state: 'confirming', message: `health checks of slot ${update.target}` });
    await reporter.report('confirming', update, true);
    const health = await runHook(this.#parts, 'health', { slot: update.target, release: update.release });
    if (health.kind !== 'done')
      return this.#fallBack(update, { code: 'healthFailed', message: health.message });
    if (await this.#isConfirmedInTime(update))
      return this.#confirm(await this.#change(update, { phase: 'confirmed' }));
    return this.#fallBack(update, { code: 'confirmTimedOut', message: 'nobody confirmed the slot in time' });
  }

  async #isConfirmedInTime({ target }: Update): Promise<boolean> {
    const { settings, confirmation, clock, status } = this.#parts;
    const { confirmWithinMs } = settings;
    if (confirmWithinMs === undefined) return true;
    status.set({ waitingFor: 'confirm', message: `slot ${target} waits for \`sitecast-agent confirm\`` });
    return confirmation.wait(signal => clock.sleep(confirmWithinMs, signal));
  }

  async #confirm(update: Update): Promise<Rest> {
    const { boot, memory, reporter, passPoint } = this.#parts;
    await boot.confirm(update.target);
    passPoint('confirmed');
    const outcome = update.kind === 'rollBack' ? 'rolledBack' : 'completed';
    const reason = update.kind === 'rollBack' ? { reason: ordered } : {};
    await reporter.report(outcome, { ...update, ...reason }, true);
    const record = memory.current.slots[update.target];
    await memory.change({
      update: null,
      slots: {
        ...memory.current.slots,
        [update.target]: { ...record, isConfirmed: true, rollout: update.rollout },
      },
      rollouts: noteEnd(memory.current, update, outcome),
      lastFailure: undefined,
      booted: update.target,
    });
    await this.returnLease(update);
    return { state: outcome };
  }

  async #fallBack(update: Update, reason: Reason): Promise<Rest> {
    return this.#leave(await this.#giveUp(update, reason));
  }

  async #giveUp(update: Update, reason: Reason): Promise<Update> {
    return this.#change(update, { phase: 'fallingBack', failure: reason });
  }

  /** Back to the other slot, by a boot. */
  async #leave(update: Update): Promise<Rest> {
    const { boot, reporter, status, passPoint } = this.#parts;
    const { failure } = update;
    status.set({
      state: 'rebooting',
      message: `falling back to slot ${otherSlot(update.target)}: ${failure?.message}`,
    });
    await reporter.report('failed', { ...update, reason: failure }, true);
    const { bootId } = await boot.read();
    await boot.setNext(otherSlot(update.target));
    passPoint('fall-back set');
    await boot.reboot();
    return this.#afterReboot(bootId);
  }

  async #fallenBack(update: Update): Promise<Rest> {
    const { boot, memory, reporter, clock, passPoint } = this.#parts;
    const reason = update.failure ?? exhausted(update);
    await reporter.report('failed', { ...update, reason }, true);
    await boot.setNext(otherSlot(update.target));
    await boot.markBad(update.target);
    passPoint('marked bad');
    await reporter.report('rolledBack', { ...update, reason }, true);
    const at = new Date(clock.now()).toISOString();
    const barred: BarredRelease = {
      counter: update.release.counter,
      version: update.release.version,
      attempt: update.rollout.attempt,
      reason,
      at,
    };
    const { current } = memory;
    await memory.change({
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
    await this.#parts.memory.change({ update: changed });
    return changed;
  }

  async #hook(name: 'pre-install', update: Update, signal: AbortSignal): Promise<void> {
    const result = await runHook(this.#parts, name, { slot: update.target, release: update.release }, signal);
    if (result.kind === 'failed') throw new Failed({ code: 'SITECAST_HOOK_FAILED', message: result.message });
    if (result.kind === 'notNow')
      throw new Postponed('hook', { code: 'SITECAST_HOOK_NOT_NOW', message: result.message });
  }

  /** The loader has been told: these can warn, but not stop it any more. */
  async #lateHook(name: 'post-install' | 'pre-reboot', update: Update): Promise<void> {
    await runHook(this.#parts, name, { slot: update.target, release: update.release });
  }

  /** @returns true, or how long to wait before asking again, milliseconds */
  async #lease(
    action: 'take' | 'renew' | 'return',
    rollout: string,
    signal?: AbortSignal,
  ): Promise<true | number> {
    const { gateways, identity } = this.#parts;
    const request = { id: identity.id, rollout, action };
    try {
      return await gateways.each(async gateway => {
        const { status, body } = await gateways.post(gateway, '/site/v1/leases', request, signal);
        // An origin hands out none.
        if (status === 404 || status === 405) return true;
        const retryMs = Number(fieldOf(body, 'retryAfterMs') ?? DEFAULT_LEASE_RETRY_MS);
        if (status !== 200) return DEFAULT_LEASE_RETRY_MS;
        return fieldOf(body, 'granted') === true || (retryMs > 0 ? retryMs : DEFAULT_LEASE_RETRY_MS);
      }, signal);
    } catch (error) {
      if (!(error instanceof SitecastError) && !isSystemError(error)) throw error;
      // Nobody counts who is down: without that word it isn't safe to go down.
      const reason = {
        code: 'SITECAST_LEASE_UNREACHABLE',
        message: `nobody hands out leases: ${error.message}`,
      };
      throw new Postponed('lease', reason, DEFAULT_LEASE_RETRY_MS);
    }
  }
}

const ordered: Reason = { code: 'ordered', message: 'the operator rolled this rollout back' };

function exhausted(update: Update): Reason {
  return {
    code: 'bootCountExhausted',
    message: `slot ${update.target} did not prove itself within ${TRIAL_BOOTS} boots`,
  };
}

function noteOrigin(memory: Memory, update: Update, booted: SlotName): RolloutMemory[] {
  if (update.kind === 'rollBack') return memory.rollouts;
  const cameFrom = memory.slots[booted].release;
  return memory.rollouts.map(entry =>
    entry.id === update.rollout.id && cameFrom ? { ...entry, cameFrom } : entry,
  );
}

function noteEnd(
  memory: Memory,
  { rollout }: Update,
  outcome: 'completed' | 'failed' | 'rolledBack',
): RolloutMemory[] {
  return memory.rollouts.map(entry =>
    entry.id === rollout.id ? { ...entry, ended: { attempt: rollout.attempt, outcome } } : entry,
  );
}
