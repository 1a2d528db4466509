import { isSystemError } from '@sitecast/shared/errors';
import { plural } from '@sitecast/shared/text';
import type { BootControl, BootState, Log, SlotName } from '../ports.ts';
import type { StateChangeLogger } from '../reports/state-change-logger.ts';
import { isSameUpdate, type Reason, type Update } from '../state/agent-state.ts';
import type { Spending } from '../state/spending.ts';
import type { CycleResult } from '../state/status.ts';
import { type JudgeDependencies, trialBoots } from './boot-steps.ts';
import { objectionTo, type Order } from './choose.ts';
import { checkedCosts, totalBytes } from './costs.ts';
import type { Deltas } from './deltas.ts';
import type { FrameSizes } from './frame-sizes.ts';
import type { Hooks } from './hooks.ts';
import type { Leases } from './leases.ts';
import type { LeaveByTurns, OwnLeave } from './leave-by-turns.ts';
import type { Release, Releases } from './releases.ts';
import { CycleEnd, failed, postponed, resultOfAttempt, superseded } from './result.ts';
import type { Costs, Schedule } from './schedule.ts';
import type { SlotContents } from './slot-contents.ts';
import type { FillPlan, SlotFiller } from './slot-filler.ts';
import * as become from './transitions.ts';
import type { UpdateChecker, UpdateContext } from './update-checker.ts';
import type { DeltaUnusable } from './delta-unusable.ts';

// The steps of `installUpdate` in update.ts, in order.

/** How often a slot is filled. Chunks that read back wrong are fetched again once; if some are wrong again, the slot isn't reliable. */
const MAX_FILLS = 2;
/** How long a slot counts as just read back, in ms: enough for the requests before the activation. */
const FRESH_FOR_MS = 60_000;

export interface InstallDependencies extends JudgeDependencies {
  boot: Pick<BootControl, 'capabilities' | 'read' | 'markBad' | 'setNext' | 'confirm' | 'setTrial'>;
  checker: Pick<UpdateChecker, 'check'>;
  releases: Releases;
  deltas: Deltas;
  contents: Pick<SlotContents, 'withHash'>;
  spending: Spending;
  frameSizes: FrameSizes;
  schedule: Schedule;
  filler: SlotFiller;
  hooks: Pick<Hooks, 'run' | 'ask' | 'has'>;
  leases: Pick<Leases, 'take' | 'keep' | 'giveBack'>;
  leaveByTurns: Pick<LeaveByTurns, 'take'>;
  stateChanges: StateChangeLogger;
  log: Log;
}

/** The order that a cycle carries out. */
export interface Attempt {
  release: Release;
  target: SlotName;
  /** The result of the check at the beginning of the cycle. */
  context: UpdateContext;
  signal: AbortSignal;
}

/** Ends the update in the state, if no order wants it any more. */
export async function abandonUnwanted(
  deps: InstallDependencies,
  { choice }: Pick<UpdateContext, 'choice'>,
): Promise<void> {
  const { update } = deps.stateFile.current;
  if (update && !choice.orders.some(order => isSameUpdate(order, update)))
    await abandon(deps, update, noLongerWanted(update));
}

/** Whether an earlier cycle of this process has verified the slot, and this process hasn't written to it since. */
export function isVerified(
  { filler, stateFile }: InstallDependencies,
  { release, target }: Attempt,
): boolean {
  const { update } = stateFile.current;
  const isNoted = update?.phase === 'verified' && isSameUpdate(update, release.order);
  return isNoted && filler.hasReadBack(target, release);
}

/** Whether the slot still holds the release that a roll-back leads to: then nothing is fetched. Changed chunks are fetched again. */
export async function holdsReturn(
  { filler, stateFile, clock }: InstallDependencies,
  { release, target, signal }: Attempt,
): Promise<boolean> {
  const record = stateFile.current.slots[target];
  if (!release.order.isInOtherSlot || record.indexSha256 !== release.indexSha256) return false;
  if ((await filler.readBack(target, release, signal)).count > 0) return false;
  const update = updateOf(release, { target, phase: 'verified', stateFile, clock });
  await stateFile.change(become.toVerified(update, { ...record, state: 'verified' }));
  return true;
}

/**
 * Compares the slot with the image, and finds the cheapest way for each missing chunk. No journal is needed: chunks that are in place in
 * the slot aren't fetched.
 * @throws CycleEnd (`waiting`) where the order's terms, the owner or a hook say "not now", or it would cost too much; SITECAST_SLOT_MISSING
 */
export async function plan(
  deps: InstallDependencies,
  attempt: Attempt,
): Promise<{ planned: FillPlan; costs: Costs }> {
  const { filler, status, hooks } = deps;
  const { release, target, signal } = attempt;
  const { order } = release;
  status.set({ state: 'checking', message: `looking at what slot ${target} holds already` });
  const planned = await filler.plan(target, release, signal);
  const { bytes } = planned.plan;
  status.set({
    plan: { imageBytes: bytes.image, rightBytes: bytes.inPlace, fetchBytes: bytes.fetched },
  });
  const costs = await checkedCosts(deps, attempt, planned, ways => status.set({ ways }));
  await hooks.ask('pre-download', { slot: target, release: order.release }, signal);
  return { planned, costs };
}

/** Writes the missing chunks to the slot, and makes them durable. Before the first byte, the slot is excluded from booting. */
export async function fetch(
  { filler, stateFile, boot, reporter, stateChanges, spending, clock }: InstallDependencies,
  { release, target, signal }: Attempt,
  { planned, costs }: { planned: FillPlan; costs: Costs },
): Promise<void> {
  const { order, index } = release;
  const writer = await filler.open(target);
  try {
    const { bytes } = planned.plan;
    if (spending.plannedBytes === undefined)
      await spending.notePlan(totalBytes(costs, spending), costs.framesBy === 'plain');
    // Reported once per attempt: a download that is resumed is the same one.
    await reporter.report('downloading', order, true);
    const copiedBytes = bytes.booted + bytes.other;
    const fetchBytes = bytes.fetched + bytes.patches;
    stateChanges.downloading(order, {
      fetchBytes,
      copiedBytes,
      patchBytes: bytes.patches,
      imageBytes: index.lengthBytes,
    });
    const { update } = stateFile.current;
    if (update?.phase !== 'downloading' || !isSameUpdate(update, order)) {
      await filler.withdraw(target);
      // Before the first byte is written: from now on no boot may choose this slot.
      await boot.markBad(target);
      const begun = updateOf(release, { target, phase: 'downloading', stateFile, clock });
      await stateFile.change(become.toDownloading(begun));
    }
    await filler.writeMissing({ ...planned, release, target, writer, signal });
  } finally {
    await writer.close();
  }
}

/** Reports why a delta can't be used. A wrong recipe isn't tried again. */
export async function giveUpDelta(
  { spending, reporter, log }: InstallDependencies,
  { order, delta }: Release,
  { code, message, hasFailed }: DeltaUnusable,
): Promise<void> {
  // A gateway that has no patches, such as one of an earlier version, does nothing wrong.
  log(hasFailed ? 'warn' : 'info', `${order.release.version} goes on without its delta: ${message}`, {
    code,
  });
  if (hasFailed && delta) await spending.noteFailedRecipe(delta.sha256);
  await reporter.report('downloading', { ...order, reason: { code, message } });
}

/** Reads the whole slot back past the page cache. Wrong chunks are fetched once more. */
export async function verify(
  { filler, stateFile, reporter, status, stateChanges, clock }: InstallDependencies,
  { release, target, signal }: Attempt,
): Promise<void> {
  const { order } = release;
  for (let fills = 1; ; fills += 1) {
    status.set({ state: 'verifying', message: `verifying slot ${target}`, progress: undefined });
    await reporter.report('verifying', order, true);
    const missing = await filler.readBack(target, release, signal);
    if (missing.count === 0) break;
    if (fills >= MAX_FILLS)
      throw failed({
        code: 'SITECAST_SLOT_UNRELIABLE',
        message: `${plural(missing.count, 'chunk')} of slot ${target} read back wrong, again`,
      });
    // Only a few chunks read back wrong: they are copied or fetched, without patches.
    const whole = { ...release, delta: undefined };
    const planned = await filler.planMissing(target, whole, missing, signal);
    const writer = await filler.open(target);
    try {
      await filler.writeMissing({ ...planned, release: whole, target, writer, signal });
    } finally {
      await writer.close();
    }
  }
  await filler.keep(target, release);
  const update = updateOf(release, { target, phase: 'verified', stateFile, clock });
  const { indexSha256, lengthBytes } = update;
  const record = { state: 'verified' as const, release: order.release, indexSha256, lengthBytes };
  await stateFile.change(become.toVerified(update, record));
  stateChanges.verified(order, target);
}

/**
 * Checks everything again right before the activation. The lease is kept where the boot loader may be told, and given back otherwise.
 * @param readBackAtMs when this cycle read the slot back, by the device's clock; -Infinity if an earlier cycle did
 * @returns false where the slot was altered
 * @throws CycleEnd (`waiting`; `idle` where the order no longer stands; `failed` where a hook refuses); the reason of `signal`
 */
export async function mayActivate(
  deps: InstallDependencies,
  attempt: Attempt,
  readBackAtMs: number,
): Promise<boolean> {
  const { schedule, leases, hooks } = deps;
  const { release, context, target, signal } = attempt;
  const { order } = release;
  await schedule.checkActivation(context.facts.rollouts, order, context.isRefreshed);
  const ownLeave = await takeLeave(deps, attempt);
  const stopRenewing = leases.keep(order.rollout.id);
  let isAllowed = false;
  try {
    await hooks.ask('pre-install', { slot: target, release: order.release }, signal);
    if (!(await isStillRight(deps, attempt, readBackAtMs))) return false;
    // Checked after the slot, which may take minutes: a pause or abort that has arrived meanwhile still counts.
    await checkOrderAgain(deps, attempt);
    await ownLeave?.confirm(signal);
    isAllowed = true;
    return true;
  } finally {
    stopRenewing();
    if (!isAllowed) await leases.giveBack(order.rollout.id);
  }
}

/** Takes a gateway's lease; if no gateway can be asked, the device's own leave. @throws CycleEnd (`waiting`) where it gets neither */
async function takeLeave(
  { leases, leaveByTurns }: InstallDependencies,
  { release, context, signal }: Attempt,
): Promise<OwnLeave | undefined> {
  const { id } = release.order.rollout;
  try {
    await leases.take(id, signal);
    return undefined;
  } catch (error) {
    if (!(error instanceof CycleEnd) || error.result.reason?.code !== 'SITECAST_LEASE_UNREACHABLE')
      throw error;
    const rollout = context.facts.rollouts.rollouts.find(one => one.id === id);
    return leaveByTurns.take(rollout, error, signal);
  }
}

/** Whether the slot is still right: another program may have written to it since it was verified, and a hook may do anything. */
async function isStillRight(
  { clock, hooks, filler, status }: InstallDependencies,
  { release, target, signal }: Attempt,
  readBackAtMs: number,
): Promise<boolean> {
  const ageMs = clock.now() - readBackAtMs;
  if (!hooks.has('pre-install') && ageMs >= 0 && ageMs < FRESH_FOR_MS) return true;
  status.set({ state: 'verifying', message: `reading slot ${target} back before it is activated` });
  return (await filler.readBack(target, release, signal)).count === 0;
}

/** Checks the order again: the rollout may have been paused, or the release withdrawn, since the cycle began. */
async function checkOrderAgain(
  { checker, releases, schedule, stateFile }: InstallDependencies,
  { release, signal }: Attempt,
): Promise<void> {
  const again = await checker.check(signal);
  if (!('choice' in again)) throw postponed('gateway', again.reason ?? unknownReason);
  const order = again.choice.orders.find(candidate => isSameUpdate(candidate, release.order));
  if (!order) throw superseded(noLongerWanted(release.order));
  const manifest = await releases.manifestOf(order, signal).catch((error: unknown) => {
    throw error instanceof CycleEnd && error.result.state === 'failed' ? superseded(error.message) : error;
  });
  const objection = objectionTo(order, manifest, again.facts);
  if (objection) throw superseded(objection.message);
  if (manifest.index.sha256 !== stateFile.current.update?.indexSha256)
    throw superseded(`${release.order.release.version} names another image by now`);
  await schedule.checkActivation(again.facts.rollouts, order, again.isRefreshed);
}

/** Tells the boot loader to try the slot. From here on, only a boot leads back. @returns the update in its phase `rebooting` */
export async function activate(
  { filler, boot, health, stateFile, reporter, status, clock, log, stop }: InstallDependencies,
  { booted, bootId }: BootState,
): Promise<Update> {
  const { update } = stateFile.current;
  if (!update) throw new TypeError('only a verified update is activated');
  const { target } = update;
  filler.forget(target);
  status.set({ state: 'installing', message: `telling the boot loader to try slot ${target}` });
  await reporter.report('installing', update, true);
  const activating: Update = {
    ...update,
    phase: 'activating',
    bootId,
    powerLosses: 0,
    rebootsAsked: undefined,
    healthNotes: { ...(await health.notes()) },
  };
  await stateFile.change(
    become.toActivating(activating, { booted, at: new Date(clock.now()).toISOString() }),
  );
  let tries: number;
  try {
    const { maxTries } = await boot.capabilities();
    tries = trialBoots(maxTries);
    await boot.setTrial(target, tries);
  } catch (error) {
    if (isSystemError(error) || stop.aborted) throw error;
    // The loader may have stored the order despite the error. Nothing would watch over that boot, so it is taken back.
    await boot
      .markBad(target)
      .catch((also: unknown) => log('error', 'a slot could not be marked as bad', { err: also }));
    throw error;
  }
  const rebooting: Update = { ...activating, phase: 'rebooting', tries };
  await stateFile.change({ update: rebooting });
  return rebooting;
}

/** Ends the attempt, or only this cycle, depending on the error. @throws other errors: see `resultOfAttempt` */
export async function endAttempt(
  deps: InstallDependencies,
  order: Order,
  { error, signal }: { error: unknown; signal: AbortSignal },
): Promise<CycleResult> {
  const result = resultOfAttempt(error, signal);
  const { state, reason } = result;
  const { update } = deps.stateFile.current;
  if (state === 'failed' && reason) {
    await deps.reporter.report('failed', { ...order, reason }, true);
    await deps.stateFile.change(
      become.toFailed(order, { reason, at: new Date(deps.clock.now()).toISOString() }),
    );
  } else if (state === 'idle' && update && error instanceof CycleEnd) {
    await abandon(deps, update, error.message);
  } else {
    await deps.reporter.report('waiting', { ...order, reason });
  }
  return result;
}

async function abandon(
  { stateFile, reporter, status }: InstallDependencies,
  update: Update,
  message: string,
): Promise<void> {
  await reporter.report('idle', { ...update, reason: { code: 'SITECAST_ROLLOUT_STOPPED', message } });
  await stateFile.change({ update: null });
  status.set({ progress: undefined, plan: undefined, ways: undefined });
}

/** The update as it is stored in the phases before the boot loader is told. */
function updateOf(
  { order, index, indexSha256 }: Release,
  {
    target,
    phase,
    stateFile,
    clock,
  }: { target: SlotName; phase: 'downloading' | 'verified' } & Pick<
    InstallDependencies,
    'stateFile' | 'clock'
  >,
): Update {
  const { kind, rollout, release } = order;
  return {
    kind,
    rollout,
    release,
    indexSha256,
    lengthBytes: index.lengthBytes,
    target,
    phase,
    startedAt: stateFile.current.update?.startedAt ?? new Date(clock.now()).toISOString(),
  };
}

function noLongerWanted({ release }: Pick<Update, 'release'>): string {
  return `the rollout of ${release.version} no longer wants it`;
}

const unknownReason: Reason = {
  code: 'SITECAST_METADATA_UNKNOWN',
  message: 'nothing is known of the repository',
};
