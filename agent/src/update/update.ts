import { type BootState, otherSlot } from '../ports.ts';
import type { Update } from '../state/agent-state.ts';
import type { CycleResult } from '../state/status.ts';
import {
  askForBoot,
  askForFallBack,
  checkHealth,
  confirm,
  endFallenBack,
  endUnbooted,
  exhausted,
  giveUp,
  type JudgeDependencies,
  neverBoots,
  neverTried,
  note,
  notePowerLoss,
} from './boot-steps.ts';
import { bootVerdict } from './boot-verdict.ts';
import { requestOf } from './reboots.ts';
import { releaseToInstall } from './find-release.ts';
import {
  abandonUnwanted,
  activate,
  type Attempt,
  endAttempt,
  fetch,
  giveUpDelta,
  holdsReturn,
  type InstallDependencies,
  isVerified,
  mayActivate,
  plan,
  verify,
} from './install-steps.ts';
import { failed } from './result.ts';
import type { UpdateContext } from './update-checker.ts';
import { DeltaUnusable } from './delta-unusable.ts';

// The update, from the order to the confirmed slot, in two functions. Each step stores its phase durably before it acts, so after a power
// cut or a restart the update goes on from the stored phase. A cycle calls `judgeBoot` first, which handles an update that the boot loader
// knows of; `installUpdate` handles all others.
//
//   installUpdate:  check → plan → fetch → verify → activate → reboot    (phases `downloading`, `verified`, `activating`)
//   judgeBoot:      start → health → confirm, or fall back               (`rebooting`, `confirming`, `confirmed`, `fallingBack`)
//
// The steps themselves are in install-steps.ts and boot-steps.ts.

/** How often an altered slot is filled again. If it is altered once more, something keeps writing there. */
const MAX_REFILLS = 1;

/**
 * Carries out what a check has found, as far as possible in this cycle.
 * @throws what doesn't end an attempt: the reason of `signal`, a system error
 */
export async function installUpdate(
  deps: InstallDependencies,
  context: UpdateContext,
  { boot, signal }: { boot: BootState; signal: AbortSignal },
): Promise<CycleResult> {
  await abandonUnwanted(deps, context);
  const release = await releaseToInstall(deps, context, signal);
  if (!('order' in release)) return release;
  const attempt: Attempt = { release, target: otherSlot(boot.booted), context, signal };
  deps.stateChanges.order(release.order);
  try {
    for (let refills = 0; ; refills += 1) {
      const readBackAtMs = await fill(deps, attempt);
      if (await mayActivate(deps, attempt, readBackAtMs)) break;
      noteAltered(deps, attempt, refills);
    }
    return await reboot(deps, await activate(deps, boot));
  } catch (error) {
    return endAttempt(deps, release.order, { error, signal });
  }
}

/**
 * Plan, fetch, verify. A slot that was being filled or was verified before a restart is compared as a whole; chunks that are in place stay.
 * @returns when the slot was read back, by the device's clock; -Infinity if that was in an earlier cycle
 */
async function fill(deps: InstallDependencies, attempt: Attempt): Promise<number> {
  if (isVerified(deps, attempt)) return Number.NEGATIVE_INFINITY;
  const { release, target, context } = attempt;
  await deps.schedule.checkDownload(context.facts.rollouts, release.order);
  await deps.filler.checkSlot(target, release);
  if (!(await holdsReturn(deps, attempt))) {
    await fetchAsPlanned(deps, attempt);
    await verify(deps, attempt);
  }
  return deps.clock.now();
}

/** Fetches. If the delta turns out to be unusable, that is reported, and the rest planned again without it; the new plan may cost too much. */
async function fetchAsPlanned(deps: InstallDependencies, attempt: Attempt): Promise<void> {
  try {
    await fetch(deps, attempt, await plan(deps, attempt));
  } catch (error) {
    const { release } = attempt;
    if (!(error instanceof DeltaUnusable) || !release.delta) throw error;
    await giveUpDelta(deps, release, error);
    const whole = { ...attempt, release: { ...release, delta: undefined } };
    await fetch(deps, whole, await plan(deps, whole));
  }
}

/** @throws CycleEnd (`failed`) where it has happened before */
function noteAltered({ log }: InstallDependencies, { release, target }: Attempt, refills: number): void {
  const { version } = release.order.release;
  const message = `slot ${target} was verified, and no longer holds ${version}: something has written to it`;
  log('warn', `${message}; it is filled again`);
  if (refills >= MAX_REFILLS) throw failed({ code: 'SITECAST_SLOT_UNRELIABLE', message });
}

/**
 * Judges what this boot means for the update that is under way, and goes on with it.
 * @returns undefined where none is under way, or the boot loader wasn't told yet: then `installUpdate` goes on
 */
export async function judgeBoot(deps: JudgeDependencies, boot: BootState): Promise<CycleResult | undefined> {
  const { update } = deps.stateFile.current;
  if (!update) return undefined;
  switch (bootVerdict(update, boot)) {
    case 'notTold':
      if (update.phase === 'activating') await note(deps, update, { phase: 'verified' });
      return undefined;
    case 'askAgain':
      return update.phase === 'fallingBack' ? fallBack(deps, update) : reboot(deps, update);
    case 'firstBoot':
      // If the reboot was a power cut, it isn't reported yet.
      await deps.reporter.report('rebooting', update, true);
      return prove(deps, await note(deps, update, { phase: 'confirming', bootId: boot.bootId }));
    case 'sameBoot':
      return prove(deps, update);
    case 'powerLoss': {
      const noted = await notePowerLoss(deps, update, boot);
      return noted.phase === 'fallingBack' ? fallBack(deps, noted) : prove(deps, noted);
    }
    case 'confirmed':
      return confirm(deps, update);
    case 'neverTried':
      return endUnbooted(deps, update, neverTried(update));
    case 'bootCountExhausted':
      return endFallenBack(deps, await giveUp(deps, update, exhausted(update)));
    default:
      return endFallenBack(deps, update);
  }
}

/** Checks the health, then confirms or falls back. The lease is renewed meanwhile. */
async function prove(deps: JudgeDependencies, update: Update): Promise<CycleResult> {
  const stopRenewing = deps.leases.keep(update.rollout.id);
  try {
    const failure = await checkHealth(deps, update);
    if (failure) return await fallBack(deps, await giveUp(deps, update, failure));
    return await confirm(deps, await note(deps, update, { phase: 'confirmed' }));
  } finally {
    stopRenewing();
  }
}

/** Into the slot on trial. */
async function reboot(deps: JudgeDependencies, update: Update): Promise<CycleResult> {
  const pause = deps.reboots.pauseOf(requestOf(update));
  if (pause) return pause;
  if (await neverBoots(deps, update)) return endUnbooted(deps, update, deps.reboots.neverCame(update));
  return judgeAfter(deps, await askForBoot(deps, update));
}

/** Back into the other slot. */
async function fallBack(deps: JudgeDependencies, update: Update): Promise<CycleResult> {
  return deps.reboots.pauseOf(requestOf(update)) ?? judgeAfter(deps, await askForFallBack(deps, update));
}

/** Handles the state after a requested boot. On most machines this process has ended by then; others only restart the agent. */
async function judgeAfter(deps: JudgeDependencies, found: BootState | CycleResult): Promise<CycleResult> {
  if (!('bootId' in found)) return found;
  deps.status.set({ booted: found.booted });
  return (await judgeBoot(deps, found)) ?? { state: 'idle' };
}
