import { SitecastError } from '@sitecast/shared/errors';
import type { ReleaseManifest } from '@sitecast/shared/release';
import { otherSlot } from '../ports.ts';
import { isSameUpdate, type Reason, type Update } from '../state/agent-state.ts';
import type { CycleResult, UpdateWays } from '../state/status.ts';
import { type Choice, type Facts, objectionTo, type Order, ROLLBACK_IMPOSSIBLE } from './choose.ts';
import { checkedCosts } from './costs.ts';
import type { InstallDependencies } from './install-steps.ts';
import { asObjection, type Release } from './releases.ts';
import { CycleEnd } from './result.ts';
import type { UpdateContext } from './update-checker.ts';

// Finds the release that a cycle installs, with everything that is known about it.

/** The first order whose manifest fits. @returns a result instead where there is none, and why */
export async function releaseToInstall(
  deps: InstallDependencies,
  { choice, facts }: UpdateContext,
  signal: AbortSignal,
): Promise<Release | CycleResult> {
  const { reporter, stateFile } = deps;
  const { followed, objection } = await orderToFollow(deps, { choice, facts }, signal);
  if (followed) return loadOrWait(deps, followed.order, { manifest: followed.manifest, facts, signal });
  if (!objection) return nothingOrdered({ reporter, stateFile }, choice.reason);
  await reporter.report('blocked', { ...choice.orders[0], reason: objection });
  return { state: 'blocked', reason: objection };
}

/** @returns the first order whose manifest fits; or why none does */
async function orderToFollow(
  { releases }: Pick<InstallDependencies, 'releases'>,
  { choice, facts }: Pick<UpdateContext, 'choice' | 'facts'>,
  signal: AbortSignal,
): Promise<{ followed?: { order: Order; manifest: ReleaseManifest }; objection?: Reason | undefined }> {
  let objection: Reason | undefined;
  for (const order of choice.orders) {
    const found = await releases.manifestOf(order, signal).then(manifest => ({ manifest }), asObjection);
    const problem = 'manifest' in found ? objectionTo(order, found.manifest, facts) : found.objection;
    if (!problem && 'manifest' in found) return { followed: { order, manifest: found.manifest } };
    objection ??= problem;
    // An older release may be a stepping stone to it.
    if (problem?.code !== 'SITECAST_STEPPING_STONE') break;
  }
  return { objection };
}

/**
 * Whether the next cycle would go on with the update that is under way: some order still wants it, and no newer order replaces it. True
 * also where a manifest can't be fetched now, as it isn't certain then.
 */
export async function isStillFollowed(
  deps: Pick<InstallDependencies, 'releases'>,
  context: UpdateContext,
  update: Pick<Update, 'kind' | 'rollout' | 'release'>,
  signal: AbortSignal,
): Promise<boolean> {
  if (!context.choice.orders.some(order => isSameUpdate(order, update))) return false;
  try {
    const { followed } = await orderToFollow(deps, context, signal);
    return followed === undefined || isSameUpdate(followed.order, update);
  } catch (error) {
    if (error instanceof SitecastError) return true;
    throw error;
  }
}

async function loadOrWait(
  deps: InstallDependencies,
  order: Order,
  about: Parameters<typeof loadRelease>[2],
): Promise<Release | CycleResult> {
  try {
    return await loadRelease(deps, order, about);
  } catch (error) {
    if (!(error instanceof CycleEnd) || error.result.state !== 'waiting') throw error;
    await deps.reporter.report('waiting', { ...order, reason: error.result.reason });
    return error.result;
  }
}

/** Loads the release with its recipe and its index: rebuilt with the recipe, stored with a slot, or fetched. */
async function loadRelease(
  { releases, deltas, contents, schedule, spending }: InstallDependencies,
  order: Order,
  { manifest, facts, signal }: { manifest: ReleaseManifest; facts: Facts; signal: AbortSignal },
): Promise<Release> {
  spending.begin(manifest.index.sha256, manifest);
  const inSlot = await contents.withHash(manifest.index.sha256);
  // A release that a slot holds needs no recipe.
  const { booted, rollouts } = facts;
  const delta = inSlot ? undefined : await deltas.find(manifest, booted, signal);
  // The recipe to come will give the index: fetching the index now would cost bytes that the plan of an update with deltas doesn't have.
  if (!inSlot && !delta && deltas.mayBeMade(booted, manifest.counter)) schedule.checkDeltas(rollouts, order);
  const known = inSlot ?? (delta && deltas.targetIndexOf(delta));
  return releases.load(order, manifest, { known, delta, spending, signal });
}

/**
 * How the first order's image would be put into its slot, and what it would wait for before anything is fetched; as far as that is known
 * now.
 */
export async function plannedWays(
  deps: InstallDependencies,
  context: UpdateContext,
  signal: AbortSignal,
): Promise<{ plan?: UpdateWays; wait?: CycleResult }> {
  const { choice, facts } = context;
  const [order] = choice.orders;
  const { releases, filler } = deps;
  if (!order) return {};
  const found: { plan?: UpdateWays } = {};
  try {
    const manifest = await releases.manifestOf(order, signal);
    if (objectionTo(order, manifest, facts)) return {};
    const release = await loadRelease(deps, order, { manifest, facts, signal });
    const planned = await filler.plan(otherSlot(facts.booted), release, signal);
    await checkedCosts(deps, { release, context, signal }, planned, ways => {
      found.plan = ways;
    });
    return found;
  } catch (error) {
    signal.throwIfAborted();
    // The update itself gets the same error, and reports it.
    if (!(error instanceof SitecastError) && !(error instanceof CycleEnd)) throw error;
    const isWaiting = error instanceof CycleEnd && error.result.state === 'waiting';
    return { ...found, ...(isWaiting && { wait: error.result }) };
  }
}

async function nothingOrdered(
  { reporter, stateFile }: Pick<InstallDependencies, 'reporter' | 'stateFile'>,
  why: Choice['reason'],
): Promise<CycleResult> {
  if (!why) return { state: 'idle' };
  const { state, rollout, ...reason } = why;
  // The end of an attempt is already reported, and stays the last result. But `check` must tell an operator that a device can't go back.
  const record = stateFile.current.rollouts.find(({ id }) => id === rollout?.id);
  const hasEnded = (record?.ended?.attempt ?? 0) >= (rollout?.attempt ?? 1);
  if (!hasEnded || reason.code === ROLLBACK_IMPOSSIBLE) await reporter.report(state, { rollout, reason });
  return { state, reason, waitingFor: state === 'waiting' ? 'rollout' : undefined };
}
