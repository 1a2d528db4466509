import type { RollbackProgress } from '@sitecast/shared/api';
import type { Rollout } from '@sitecast/shared/fleet';
import type { Outcome } from '../../fleet/outcome.ts';
import type { Registry } from '../../fleet/registry.ts';
import type { CohortRow, Recount, StageCohort } from '../../rollouts/cohort-store.ts';
import { freeze } from '../../rollouts/controller/cohort.ts';
import {
  CohortTracker,
  type DeviceStatus,
  deviceStatusOf,
  GatewayLiveness,
  isOpen,
} from '../../rollouts/controller/cohort-tracker.ts';
import { deadlineMsOf, type RolloutStats } from '../../rollouts/controller/state.ts';
import { bootedCounter, provedCounter, reachedBy } from '../../rollouts/match.ts';
import type { RolloutRecord } from '../../rollouts/record.ts';
import { placeOf } from '../../rollouts/rollback-progress.ts';
import type { Outcomes } from '../../rollouts/status.ts';

interface CohortState {
  registry: Registry;
  /** Kept as of each commit by the caller. */
  outcomes: Outcomes;
  /** The frozen rows by key: all that are stored. */
  rows: ReadonlyMap<string, CohortRow>;
}

/**
 * The cohort of a rollout under way, with the status of each device, as of each commit that it is told of. Who is in was frozen with each
 * stage, because assignments may change afterwards. The status follows from what devices have reported.
 */
export class TrackedCohort {
  readonly tracker = new CohortTracker();
  readonly #registry: Registry;
  readonly #outcomes: Outcomes;
  /** Rows of stages that haven't begun. */
  readonly #ahead = new Map<string, CohortRow>();
  #record: RolloutRecord;

  constructor(record: RolloutRecord, { registry, outcomes, rows }: CohortState) {
    this.#record = record;
    this.#registry = registry;
    this.#outcomes = outcomes;
    // A rollout without a stored cohort was restored from its signed file.
    if (rows.size === 0)
      this.#join(
        0,
        [...reachedBy(record.rollout, record.product, registry)].map(({ id }) => id),
      );
    for (const [key, row] of rows) this.takeRow(key, row);
    this.#joinBegun();
    this.#countLate();
  }

  stats(): RolloutStats {
    return this.tracker.stats(this.#record.controller.stage);
  }

  /** A row of the cohort was frozen, or deleted. */
  takeRow(key: string, row: CohortRow | undefined): void {
    if (row) this.#ahead.set(key, row);
    else this.#ahead.delete(key);
  }

  /** The record has changed: a stage may have begun, or another attempt. */
  takeRecord(record: RolloutRecord): void {
    const { attempt, state, release } = this.#record.rollout;
    const { rollout } = record;
    this.#record = record;
    this.#joinBegun();
    const isSame =
      rollout.attempt === attempt && rollout.state === state && rollout.release.counter === release.counter;
    if (isSame) return;
    for (const { id } of this.tracker.devices()) this.look(id);
    this.#countLate();
  }

  /** The device has reported about the rollout. The cost doesn't depend on the fleet. */
  takeOutcome(deviceId: string): void {
    this.tracker.update(deviceId, this.#statusOf(deviceId));
  }

  /** The device has reported what it runs, or was revoked. */
  look(deviceId: string): void {
    const before = this.tracker.status(deviceId);
    if (before === undefined && !this.#outcomes.has(deviceId)) return;
    const status = this.#statusOf(deviceId);
    if (status !== before) this.tracker.update(deviceId, status);
  }

  /** Reads the whole registry once, and only if a device may be past the deadline. */
  markOverdue(nowMs: number, isBusy: (deviceId: string) => boolean): void {
    const { controller } = this.#record;
    if (controller.phase !== 'active') return;
    const registry = this.#registry;
    let liveness: GatewayLiveness | undefined;
    for (const { id, status } of this.tracker.devices()) {
      if (!isOpen(status)) continue;
      const { last } = registry.status(id) ?? {};
      const deadlineMs = deadlineMsOf(controller, last && Date.parse(last.receivedAt));
      if (nowMs < deadlineMs || isBusy(id)) {
        this.tracker.setOverdue(id, undefined);
        continue;
      }
      liveness ??= livenessOf(registry);
      const isSilent = status === 'running' && liveness.broughtOthersAfter(id, last?.via, deadlineMs);
      this.tracker.setOverdue(id, isSilent ? 'silent' : 'unreachable');
    }
  }

  rollbackProgress(): RollbackProgress {
    const { rollout } = this.#record;
    const counts: RollbackProgress = { left: 0, lateLeft: 0, stuck: 0, returned: 0 };
    const cohort = [...this.tracker.devices()].map(({ id }) => id);
    for (const id of new Set([...cohort, ...this.#outcomes.keys()])) {
      const status = this.#registry.status(id);
      const place = placeOf(rollout, {
        status: this.#statusOf(id),
        state: this.#outcomes.get(id)?.state,
        booted: bootedCounter(status),
        about: status?.last.release?.counter,
      });
      if (!place) continue;
      counts[place] += 1;
      if (place === 'left' && !this.tracker.has(id)) counts.lateLeft += 1;
    }
    return counts;
  }

  #join(stage: number, ids: readonly string[]): void {
    for (const id of ids) {
      const member = this.#registry.member(id);
      if (member) this.tracker.add({ id, site: member.site, stage }, this.#statusOf(id));
    }
  }

  #joinBegun(): void {
    for (const [key, { stage, ids }] of this.#ahead) {
      if (stage > this.#record.controller.stage) continue;
      this.#join(stage, ids);
      this.#ahead.delete(key);
    }
  }

  #countLate(): void {
    for (const id of this.#outcomes.keys())
      if (!this.tracker.has(id)) this.tracker.update(id, this.#statusOf(id));
  }

  #statusOf(deviceId: string): DeviceStatus {
    return statusIn(this.#record.rollout, deviceId, this.#outcomes.get(deviceId), this.#registry);
  }
}

/** `CohortStore.stageCohort`. @param tracker the cohort so far */
export function stageCohortOf(
  { product, controller }: RolloutRecord,
  signed: Rollout,
  stage: number,
  { registry, tracker, nowMs }: { registry: Registry; tracker: CohortTracker | undefined; nowMs: number },
): StageCohort {
  const everyDevice = { ...signed, cohort: { below: null } };
  const candidates = [...reachedBy(everyDevice, product, registry)].map(({ id }) => id);
  const share = controller.plan.stages[stage]?.basisPoints ?? 0;
  const { cohort, members } = freeze(signed.id, candidates, share, signed.cohort, nowMs);
  return { cohort, joined: members.filter(id => tracker?.has(id) !== true) };
}

/** `CohortStore.recount`. */
export function recountOf(
  { rollout, product, controller }: RolloutRecord,
  outcomes: Outcomes,
  registry: Registry,
): Recount {
  const tracker = new CohortTracker();
  const reached = [...reachedBy(rollout, product, registry)].map(({ id }) => id);
  let others = 0;
  for (const id of new Set([...reached, ...outcomes.keys()])) {
    const member = registry.member(id);
    const outcome = outcomes.get(id);
    const status = statusIn(rollout, id, outcome, registry);
    const hasIt = outcome !== undefined && provedCounter(registry.status(id)) === rollout.release.counter;
    if (member && (status !== 'succeeded' || hasIt))
      tracker.add({ id, site: member.site, stage: controller.stage }, status);
    else if (status === 'succeeded' && !outcome) others += 1;
  }
  const ids = [...tracker.devices()].map(({ id }) => id);
  return { ids, stats: tracker.stats(controller.stage), others };
}

function statusIn(
  { attempt, release, state }: Rollout,
  deviceId: string,
  outcome: Outcome | undefined,
  registry: Registry,
): DeviceStatus {
  return deviceStatusOf(
    {
      outcome,
      provedCounter: provedCounter(registry.status(deviceId)),
      isRevoked: registry.activeMember(deviceId) === undefined,
    },
    { attempt, counter: release.counter, isRollingBack: state === 'rollingBack' },
  );
}

function livenessOf(registry: Registry): GatewayLiveness {
  const liveness = new GatewayLiveness();
  for (const { id } of registry.members()) {
    const { last } = registry.status(id) ?? {};
    if (last) liveness.note(id, last.via, Date.parse(last.receivedAt));
  }
  return liveness;
}
