import {
  type Assignment,
  type Eligibility,
  eligibilityOf,
  type Rollout,
  type RolloutsFile,
} from '@sitecast/shared/fleet';
import type { ProductFile, ReleaseManifest } from '@sitecast/shared/release';
import { otherSlot, type SlotName } from '../ports.ts';
import type { KnownRelease, AgentState, Reason, RolloutRecord } from '../state/agent-state.ts';

/** All facts that decide which release a device runs. The signed ones have been verified. */
export interface Facts {
  product: string;
  hardware: string;
  assignment: Assignment;
  productFile: ProductFile;
  rollouts: RolloutsFile;
  booted: SlotName;
  agentState: AgentState;
}

/** A release that this device is to run, by a rollout's order. */
export interface Order {
  kind: 'install' | 'rollBack';
  rollout: { id: string; attempt: number };
  release: KnownRelease;
  /** SHA-256 of the manifest; undefined where the order names only the counter. */
  manifestSha256?: string;
  /** True: the other slot holds the release. */
  isInOtherSlot: boolean;
}

/** What to do next, before any manifest is read. */
export interface Choice {
  /** In order of preference. The first whose manifest fits is followed. */
  orders: Order[];
  /** Why nothing, or nothing newer, is done; undefined where there is no order. */
  reason?: Reason & { state: 'blocked' | 'waiting'; rollout?: { id: string; attempt: number } };
  /** Rollouts that reach this device for the first time. */
  latches: string[];
}

/**
 * Chooses the rollout that this device follows: the newest that reaches it. A completed rollout is the baseline for devices that come
 * late, and never leads to an older release.
 */
export function choose(facts: Facts): Choice {
  const refusal = refusalOf(facts);
  if (refusal) return { orders: [], reason: { state: 'blocked', ...refusal }, latches: [] };
  const walk: Walk = { facts, orders: [], latches: [], reason: undefined };
  for (const rollout of facts.rollouts.rollouts.toReversed()) {
    if (consider(walk, rollout) === 'stop') break;
  }
  const { orders, latches, reason } = walk;
  return reason ? { orders, latches, reason } : { orders, latches };
}

/** Code of the reason why a device can't roll back, though a rollout orders it. */
export const ROLLBACK_IMPOSSIBLE = 'SITECAST_ROLLBACK_IMPOSSIBLE';

interface Walk {
  facts: Facts;
  orders: Order[];
  latches: string[];
  reason: Choice['reason'];
}

function refusalOf({ product, hardware, assignment, productFile, rollouts }: Facts): Reason | undefined {
  if (assignment.revoked === true || rollouts.revoked.includes(assignment.id))
    return reason('SITECAST_DEVICE_REVOKED', 'the operator has revoked this device');
  if (assignment.product !== undefined && assignment.product !== product)
    return reason(
      'SITECAST_ASSIGNMENT_MISMATCH',
      `the origin has this device down as a ${assignment.product}, not a ${product}`,
    );
  if (assignment.hardware !== undefined && assignment.hardware !== hardware)
    return reason(
      'SITECAST_ASSIGNMENT_MISMATCH',
      `the origin has this device down with hardware ${assignment.hardware}, not ${hardware}`,
    );
  if (productFile.product !== product || rollouts.product !== product)
    return reason('SITECAST_PRODUCT_MISMATCH', `the files of ${product} are those of another product`);
  return undefined;
}

function consider(walk: Walk, rollout: Rollout): 'stop' | 'older' {
  const { facts } = walk;
  const remembered = facts.agentState.rollouts.find(({ id }) => id === rollout.id);
  if (rollout.state === 'rollingBack')
    return remembered ? considerReturn(walk, rollout, remembered) : 'older';
  if (rollout.state === 'aborted') return 'older';
  const isReached = remembered !== undefined || eligibility(facts, rollout) === 'in';
  if (!isReached) return 'older';
  if (rollout.state === 'active' && !remembered) walk.latches.push(rollout.id);
  return rollout.state === 'paused'
    ? considerPaused(walk, rollout)
    : considerRelease(walk, rollout, remembered);
}

function considerPaused(walk: Walk, rollout: Rollout): 'stop' | 'older' {
  if (bootedCounter(walk.facts) !== rollout.release.counter) {
    walk.reason ??= {
      state: 'waiting',
      ...reason('SITECAST_ROLLOUT_PAUSED', `the rollout of ${rollout.release.version} is paused`),
      rollout: orderOf(rollout),
    };
  }
  return 'stop';
}

function considerRelease(
  walk: Walk,
  rollout: Rollout,
  remembered: RolloutRecord | undefined,
): 'stop' | 'older' {
  const { facts } = walk;
  const { counter, version, manifestSha256 } = rollout.release;
  const running = bootedCounter(facts);
  if (running === counter) return 'stop';
  const isBaseline = rollout.state === 'completed';
  if ((isBaseline || walk.orders.length > 0) && counter < running) return 'older';
  const refusal = barring(facts, rollout, remembered);
  if (refusal) {
    walk.reason ??= { state: 'blocked', ...refusal, rollout: orderOf(rollout) };
    return 'stop';
  }
  const { floor } = facts.productFile;
  if (counter < floor.counter) {
    walk.reason ??= {
      state: 'blocked',
      ...reason(
        'SITECAST_BELOW_FLOOR',
        `${version} is below the security floor ${floor.version ?? floor.counter}`,
      ),
      rollout: orderOf(rollout),
    };
    return 'stop';
  }
  walk.orders.push({
    kind: 'install',
    rollout: orderOf(rollout),
    release: { counter, version },
    manifestSha256,
    isInOtherSlot: false,
  });
  // An older rollout matters only if it offers a stepping stone that this release may need.
  return 'older';
}

/**
 * Whether an earlier attempt bars this one. Each attempt number of a rollout allows one attempt; a release that failed here stays barred
 * until the number rises.
 */
function barring(
  { agentState }: Facts,
  rollout: Rollout,
  remembered: RolloutRecord | undefined,
): Reason | undefined {
  const { counter, version } = rollout.release;
  const barred = agentState.barred.find(
    entry => entry.counter === counter && entry.attempt >= rollout.attempt,
  );
  if (barred)
    return reason(
      'SITECAST_RELEASE_BARRED',
      `${version} failed on this device (${barred.reason.code}): barred until \`sitecast rollout retry\` lets it try again`,
    );
  const { ended } = remembered ?? {};
  if (ended && ended.attempt >= rollout.attempt)
    return reason(
      'SITECAST_ATTEMPT_USED',
      `attempt ${rollout.attempt} at ${version} has ended here (${ended.outcome})`,
    );
  return undefined;
}

function considerReturn(walk: Walk, rollout: Rollout, remembered: RolloutRecord): 'stop' | 'older' {
  const { facts } = walk;
  const running = bootedCounter(facts);
  // The device stays at the release of the roll-back: older rollouts must not lead it on.
  if (running === rollout.rollbackTo?.counter) return 'stop';
  if (running !== rollout.release.counter) return 'older';
  const { ended } = remembered;
  const hasReturned = ended?.outcome === 'rolledBack' && ended.attempt >= rollout.attempt;
  const returnTo = rollout.rollbackTo ?? remembered.cameFrom;
  const blocked = hasReturned
    ? reason('SITECAST_ROLLBACK_FAILED', 'going back was tried and failed')
    : impossible(facts, returnTo, rollout.rollbackTo !== undefined || isReturning(facts, rollout));
  if (blocked || !returnTo) {
    if (blocked) walk.reason ??= { state: 'blocked', ...blocked, rollout: orderOf(rollout) };
    return 'stop';
  }
  walk.orders.push({
    kind: 'rollBack',
    rollout: orderOf(rollout),
    release: returnTo,
    isInOtherSlot: isInOtherSlot(facts, returnTo),
  });
  return 'stop';
}

/**
 * Whether the roll-back has begun: changed chunks of the other slot are being fetched again, so for now that slot counts as holding no
 * release.
 */
function isReturning({ agentState: { update } }: Facts, { id, attempt }: Rollout): boolean {
  return update?.kind === 'rollBack' && update.rollout.id === id && update.rollout.attempt === attempt;
}

/** @param mayFetch whether the release may be fetched where the other slot doesn't hold it */
function impossible(facts: Facts, returnTo: KnownRelease | undefined, mayFetch: boolean): Reason | undefined {
  const code = ROLLBACK_IMPOSSIBLE;
  if (!returnTo) return reason(code, "it isn't known which release this device came from");
  if (returnTo.counter === bootedCounter(facts))
    return reason(code, `this device came from ${returnTo.version} itself, in its other slot`);
  const { floor } = facts.productFile;
  if (returnTo.counter < floor.counter)
    return reason(code, `${returnTo.version} is below the security floor ${floor.version ?? floor.counter}`);
  if (!mayFetch && !isInOtherSlot(facts, returnTo))
    return reason(code, `the other slot no longer holds ${returnTo.version}`);
  return undefined;
}

function isInOtherSlot({ agentState, booted }: Facts, release: KnownRelease): boolean {
  const other = agentState.slots[otherSlot(booted)];
  return (
    (other.state === 'verified' || other.state === 'altered') && other.release?.counter === release.counter
  );
}

function bootedCounter({ agentState, booted }: Facts): number {
  return agentState.slots[booted].release?.counter ?? 0;
}

function eligibility(facts: Facts, rollout: Rollout): Eligibility {
  return eligibilityOf(rollout, { assignment: facts.assignment, bootedCounter: bootedCounter(facts) });
}

const orderOf = ({ id, attempt }: Rollout) => ({ id, attempt });

const reason = (code: string, message: string): Reason => ({ code, message });

/** @returns why the order can't be followed with this manifest; undefined where it can */
export function objectionTo(
  order: Order,
  manifest: ReleaseManifest,
  facts: Pick<Facts, 'product' | 'hardware' | 'agentState' | 'booted'>,
): Reason | undefined {
  const { counter, version } = order.release;
  if (manifest.product !== facts.product || manifest.counter !== counter)
    return reason('SITECAST_MANIFEST_MISMATCH', `the manifest of ${version} is that of another release`);
  if (!manifest.hardware.includes(facts.hardware))
    return reason('SITECAST_HARDWARE_MISMATCH', `${version} isn't made for hardware ${facts.hardware}`);
  const running = facts.agentState.slots[facts.booted].release?.counter ?? 0;
  const { minimum } = manifest;
  // An empty slot holds no release that could be older than the required one.
  const isEmpty = facts.agentState.slots[facts.booted].state === 'empty';
  const isTooOld = minimum !== undefined && running < minimum.counter && !isEmpty;
  if (isTooOld && order.kind === 'install')
    return reason(
      'SITECAST_STEPPING_STONE',
      `${version} can't be installed over this release: install ${minimum.version} first`,
    );
  return undefined;
}
