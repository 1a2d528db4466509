import type { RollbackProgress } from '@sitecast/shared/api';
import type { DeviceState, Rollout } from '@sitecast/shared/fleet';
import type { OutcomeChange } from '../fleet/intake-round.ts';
import type { Outcome } from '../fleet/outcome.ts';
import type { ProgressBoard } from '../fleet/progress.ts';
import type { Registry } from '../fleet/registry.ts';
import type { CohortStore } from './cohort-store.ts';
import { freeze } from './controller/cohort.ts';
import {
  CohortTracker,
  type DeviceStatus,
  deviceStatusOf,
  GatewayLiveness,
  isOpen,
} from './controller/cohort-tracker.ts';
import { deadlineMsOf, type RolloutStats } from './controller/state.ts';
import { bootedCounter, reachedBy } from './match.ts';
import { OutcomeCache, type Outcomes } from './outcome-cache.ts';
import type { RolloutRecord } from './record.ts';

interface CohortsDeps {
  registry: Registry;
  store: Pick<CohortStore, 'cohort' | 'outcomes'>;
  progress: ProgressBoard;
}

/**
 * The cohorts of the rollouts under way, with the status of each device. The store keeps who is in a cohort, because assignments may
 * change after a stage has frozen it. The status follows from what devices have reported.
 */
export class Cohorts {
  readonly outcomes: OutcomeCache;
  readonly #deps: CohortsDeps;
  readonly #byRollout = new Map<string, { tracker: CohortTracker; rollout: Rollout }>();

  constructor(deps: CohortsDeps) {
    this.#deps = deps;
    this.outcomes = new OutcomeCache(deps.store);
  }

  /** Begins to follow a rollout, with its stored cohort. */
  async follow({ rollout, product }: RolloutRecord): Promise<void> {
    await this.outcomes.follow(rollout.id);
    if (this.#byRollout.has(rollout.id)) return;
    const { registry, store } = this.#deps;
    const stages = await store.cohort(rollout.id);
    // A rollout without a stored cohort was restored from its signed file.
    if (stages.length === 0)
      stages.push({ stage: 0, ids: [...reachedBy(rollout, product, registry)].map(({ id }) => id) });
    this.#byRollout.set(rollout.id, { tracker: new CohortTracker(), rollout });
    for (const { stage, ids } of stages) this.join(rollout, stage, ids);
    this.refresh(rollout);
  }

  forget(rolloutId: string): void {
    this.outcomes.forget(rolloutId);
    this.#byRollout.delete(rolloutId);
  }

  /** Reads the cohort anew at the next `follow`; the outcomes stay. */
  forgetCohort(rolloutId: string): void {
    this.#byRollout.delete(rolloutId);
  }

  tracker(rolloutId: string): CohortTracker | undefined {
    return this.#byRollout.get(rolloutId)?.tracker;
  }

  stats({ rollout, controller }: RolloutRecord): RolloutStats | undefined {
    return this.tracker(rollout.id)?.stats(controller.stage);
  }

  /** The cohort of a stage that begins now. @returns `joined`: ids of the devices that come in with it */
  freezeStage(
    { product, controller }: RolloutRecord,
    signed: Rollout,
    stage: number,
    nowMs: number,
  ): { cohort: Rollout['cohort']; joined: string[] } {
    const everyDevice = { ...signed, cohort: { below: null } };
    const candidates = [...reachedBy(everyDevice, product, this.#deps.registry)].map(({ id }) => id);
    const share = controller.plan.stages[stage]?.basisPoints ?? 0;
    const { cohort, members } = freeze(signed.id, candidates, share, signed.cohort, nowMs);
    const tracker = this.tracker(signed.id);
    return { cohort, joined: members.filter(id => tracker?.has(id) !== true) };
  }

  /** How far the devices of the cohort, and latecomers, are on the way back. Undefined for an ended rollout. */
  rollbackProgress({ rollout }: RolloutRecord): RollbackProgress | undefined {
    const tracker = this.tracker(rollout.id);
    if (!tracker) return undefined;
    const { registry } = this.#deps;
    const outcomes = this.outcomes.current(rollout.id);
    const counts: RollbackProgress = { left: 0, lateLeft: 0, stuck: 0, returned: 0 };
    const cohort = [...tracker.devices()].map(({ id }) => id);
    for (const id of new Set([...cohort, ...(outcomes?.keys() ?? [])])) {
      const outcome = outcomes?.get(id);
      const status = registry.status(id);
      const place = placeOf(rollout, {
        status: this.#statusOf(rollout, id, outcome),
        state: outcome?.state,
        booted: bootedCounter(status),
        about: status?.last.release?.counter,
      });
      if (!place) continue;
      counts[place] += 1;
      if (place === 'left' && !tracker.has(id)) counts.lateLeft += 1;
    }
    return counts;
  }

  /**
   * The devices that an ended rollout would concern if it were reopened, and their stats. A device that runs another release by now,
   * or got this one in another way, isn't among them: it neither rolls back nor reports that it did.
   */
  async recount({
    rollout,
    product,
    controller,
  }: RolloutRecord): Promise<{ ids: string[]; stats: RolloutStats }> {
    const { registry } = this.#deps;
    const outcomes: Outcomes = await this.outcomes.outcomes(rollout.id);
    const tracker = new CohortTracker();
    const reached = [...reachedBy(rollout, product, registry)].map(({ id }) => id);
    for (const id of new Set([...reached, ...outcomes.keys()])) {
      const member = registry.member(id);
      const outcome = outcomes.get(id);
      const status = this.#statusOf(rollout, id, outcome);
      const hasIt = outcome !== undefined && bootedCounter(registry.status(id)) === rollout.release.counter;
      if (member && (status !== 'succeeded' || hasIt))
        tracker.add({ id, site: member.site, stage: controller.stage }, status);
    }
    return { ids: [...tracker.devices()].map(({ id }) => id), stats: tracker.stats(controller.stage) };
  }

  /** Takes devices into the cohort. Devices that are in already stay as they are. */
  join(rollout: Rollout, stage: number, ids: readonly string[]): void {
    const tracker = this.tracker(rollout.id);
    for (const id of ids) {
      const member = this.#deps.registry.member(id);
      if (tracker && member) tracker.add({ id, site: member.site, stage }, this.#statusOf(rollout, id));
    }
  }

  /** Counts what devices have reported. The cost doesn't depend on the fleet. @returns ids of the rollouts concerned */
  count(changes: readonly OutcomeChange[]): Set<string> {
    this.outcomes.apply(changes);
    const touched = new Set<string>();
    for (const { rolloutId, deviceId, after } of changes) {
      const followed = this.#byRollout.get(rolloutId);
      if (!followed) continue;
      followed.tracker.update(deviceId, this.#statusOf(followed.rollout, deviceId, after));
      touched.add(rolloutId);
    }
    return touched;
  }

  /** Counts all devices anew, after another attempt, a revocation, or a report of what a device runs. */
  refresh(rollout: Rollout): void {
    const followed = this.#byRollout.get(rollout.id);
    if (!followed) return;
    followed.rollout = rollout;
    const { tracker } = followed;
    for (const { id, status } of tracker.devices()) {
      const now = this.#statusOf(rollout, id);
      if (now !== status) tracker.update(id, now);
    }
    for (const [id, outcome] of this.outcomes.current(rollout.id) ?? [])
      if (!tracker.has(id)) tracker.update(id, this.#statusOf(rollout, id, outcome));
  }

  /** Marks the devices that are past the deadline. Reads the whole registry once, and only if a device may be past it. */
  markOverdue({ rollout, controller }: RolloutRecord, nowMs: number): void {
    const tracker = this.tracker(rollout.id);
    if (!tracker || controller.phase !== 'active') return;
    const { registry, progress } = this.#deps;
    let liveness: GatewayLiveness | undefined;
    for (const { id, status } of tracker.devices()) {
      if (!isOpen(status)) continue;
      const { last } = registry.status(id) ?? {};
      const deadlineMs = deadlineMsOf(controller, last && Date.parse(last.receivedAt));
      const isAlive = nowMs < deadlineMs || progress.get(id, nowMs)?.rollout === rollout.id;
      if (isAlive) {
        tracker.setOverdue(id, undefined);
        continue;
      }
      liveness ??= livenessOf(registry);
      const isSilent = status === 'running' && liveness.broughtOthersAfter(id, last?.via, deadlineMs);
      tracker.setOverdue(id, isSilent ? 'silent' : 'unreachable');
    }
  }

  #statusOf(
    { id, attempt, release, state }: Rollout,
    deviceId: string,
    outcome: Outcome | undefined = this.outcomes.current(id)?.get(deviceId),
  ): DeviceStatus {
    const { registry } = this.#deps;
    return deviceStatusOf(
      {
        outcome,
        bootedCounter: bootedCounter(registry.status(deviceId)),
        isRevoked: registry.activeMember(deviceId) === undefined,
      },
      { attempt, counter: release.counter, isRollingBack: state === 'rollingBack' },
    );
  }
}

function livenessOf(registry: Registry): GatewayLiveness {
  const liveness = new GatewayLiveness();
  for (const { id } of registry.members()) {
    const { last } = registry.status(id) ?? {};
    if (last) liveness.note(id, last.via, Date.parse(last.receivedAt));
  }
  return liveness;
}

interface RollbackFacts {
  status: DeviceStatus;
  /** By the device's newest report about the rollout. */
  state: DeviceState | undefined;
  /** Counter of the release that the device runs; 0: unknown. */
  booted: number;
  /** Counter of the release that its newest report is about. */
  about: number | undefined;
}

/** States in which a device that still runs another release is about to run this one. */
const ON_THE_WAY: ReadonlySet<DeviceState> = new Set(['installing', 'rebooting', 'confirming']);

type Place = keyof Omit<RollbackProgress, 'lateLeft'> | undefined;

/** How far a device has got on the way back; undefined if it has nothing to go back from. */
export function placeOf({ release }: Pick<Rollout, 'release'>, facts: RollbackFacts): Place {
  const { status, state, booted } = facts;
  if (status === 'decommissioned') return undefined;
  if (status === 'returned') return 'returned';
  if (status === 'succeeded') return 'left';
  if (booted === release.counter) return placeOfRunning(release, facts);
  // The release that it runs is unknown.
  if (booted === 0 && status === 'blocked') return 'stuck';
  if (booted === 0 && status === 'running') return 'left';
  return status === 'running' && state !== undefined && ON_THE_WAY.has(state) ? 'left' : undefined;
}

/** A device that failed falls back by itself. A device that failed on the way back stays where it is. */
function placeOfRunning({ counter }: Rollout['release'], { status, state, about }: RollbackFacts): Place {
  if (status === 'blocked') return 'stuck';
  if (status !== 'failed') return 'left';
  if (state === 'rolledBack' || state === 'blocked') return 'stuck';
  return state === 'failed' && about !== undefined && about !== counter ? 'stuck' : 'left';
}
