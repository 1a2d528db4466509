import { MAX_STAGES, type OperatorAct, type RolloutPreview, type RolloutSpec } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import type { Rollout } from '@sitecast/shared/fleet';
import pLimit from 'p-limit';
import type { Audit } from '../audit/audit.ts';
import type { Events } from '../events/events.ts';
import type { OutcomeChange } from '../fleet/intake-round.ts';
import type { ProgressBoard } from '../fleet/progress.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Leadership } from '../leadership.ts';
import type { Log } from '../log.ts';
import type { Repository } from '../repository/repository.ts';
import type { After } from '../upkeep.ts';
import { considerAct, NO_STATS, possibleActs, previewOf } from './acts.ts';
import type { CohortStore } from './cohort-store.ts';
import { decide, isSoakingLast } from './controller/decide.ts';
import { type Decided, ORIGIN } from './controller/effects.ts';
import type { OperatorRequest } from './controller/operate.ts';
import { Decisions } from './decisions.ts';
import { failedWith, nextAttempt } from './earlier-rollouts.ts';
import { EvaluationScheduler } from './evaluation-scheduler.ts';
import { type PreparedRollout, prepareRollout } from './prepare.ts';
import { SignedRollouts } from './published.ts';
import { isUnderWay, type RolloutRecord } from './record.ts';
import { type Standing, standingsOf } from './standings.ts';

interface RolloutsDeps {
  repository: Repository;
  leadership: Pick<Leadership, 'isHeld'>;
  registry: Registry;
  store: CohortStore;
  progress: ProgressBoard;
  audit: Audit;
  events: Events;
  /** Whether deltas to a release are still to come, for a rollout that was started then; milliseconds since 1970. */
  awaitsDeltas?: (product: string, counter: number, sinceMs: number) => boolean;
  now: () => number;
  after: After;
  log: Log;
}

/**
 * Rollouts: how they start, grow, stop and end. The signed files decide, and all changes of them are made here, one after the other. The
 * controller decides; `Decisions` carries its decisions out.
 */
export class Rollouts {
  readonly #deps: RolloutsDeps;
  readonly #signed: SignedRollouts;
  readonly #decisions: Decisions;
  readonly #scheduler: EvaluationScheduler;
  readonly #serial = pLimit(1);

  private constructor(deps: RolloutsDeps) {
    this.#deps = deps;
    this.#signed = new SignedRollouts(deps);
    this.#scheduler = new EvaluationScheduler({
      ...deps,
      serial: this.#serial,
      evaluate: id => this.#evaluate(id),
    });
    this.#decisions = new Decisions({ ...deps, signed: this.#signed, scheduler: this.#scheduler });
  }

  static async open(deps: RolloutsDeps): Promise<Rollouts> {
    const rollouts = new Rollouts(deps);
    await rollouts.reconcile();
    await deps.store.sweep();
    return rollouts;
  }

  /** Newest first. */
  list(): readonly RolloutRecord[] {
    return this.#deps.store.records();
  }

  /** The current status of rollouts under way, and the result of the latest ended ones. @throws SITECAST_STATE_DAMAGED */
  standings(): Promise<Standing[]> {
    return standingsOf(this.#deps.store, this.#deps.now());
  }

  /** @throws SITECAST_ROLLOUT_UNKNOWN (notFound) */
  require(id: string): RolloutRecord {
    const record = this.#deps.store.record(id);
    if (record) return record;
    throw new SitecastError('notFound', 'SITECAST_ROLLOUT_UNKNOWN', `there is no rollout ${id}`, {
      hint: '`sitecast rollout list` shows them.',
    });
  }

  /** Whether the product has a rollout with this id. */
  isOf(id: string, product: string): boolean {
    return this.#deps.store.record(id)?.product === product;
  }

  /** Id of the newest rollout of a release that is under way. */
  idUnderWay(product: string, counter: number): string | undefined {
    const found = this.list().find(
      record =>
        record.product === product && record.rollout.release.counter === counter && isUnderWay(record),
    );
    return found?.rollout.id;
  }

  /** The acts that would change a rollout now. */
  acts(record: RolloutRecord): Promise<OperatorAct[]> {
    return possibleActs({ signed: this.#signed, store: this.#deps.store }, record);
  }

  /** Whether keys and clock allow signing a decision. */
  get canSign(): boolean {
    try {
      this.#deps.repository.demandRolloutsSigner();
      return true;
    } catch (error) {
      // `sitecast status` and /readyz say what is wrong with them.
      if (error instanceof SitecastError) return false;
      throw error;
    }
  }

  /**
   * What an act would do now.
   * @param to label of the release that a rollback leads to
   * @throws what `operate` throws, so an act that would be refused isn't offered
   */
  async preview(
    id: string,
    request: Pick<OperatorRequest, 'act' | 'isAcknowledged'>,
    to?: string,
  ): Promise<RolloutPreview> {
    const record = this.require(id);
    const { returnTarget, stats, others } = await this.#consider(record, { ...request, by: ORIGIN }, to);
    const next = record.controller.stage + 1;
    const { stages } = record.controller.plan;
    const { store, now } = this.#deps;
    const isGrowing = request.act === 'advance' && next < stages.length;
    const ahead = isGrowing ? await store.stageCohort(record, record.rollout, next, now()) : undefined;
    const joining = ahead?.joined.length ?? 0;
    const back = await store.rollbackProgress(id);
    const { product } = record;
    const touchable = {
      stats,
      back,
      others,
      joining,
      nextAttempt: nextAttempt(store, record),
      failedThere: returnTarget
        ? await failedWith(store, { product, counter: returnTarget.release.counter })
        : 0,
    };
    return previewOf(record, request.act, touchable, returnTarget);
  }

  /** What `start` would begin. @throws as `start`, but not because of a rollout that is under way */
  async dryRun(spec: RolloutSpec): Promise<PreparedRollout & { failedBefore: number }> {
    const prepared = await this.#prepare({ ...spec, dryRun: true });
    const { counter } = prepared.rollout.release;
    const failedBefore = await failedWith(this.#deps.store, { product: spec.product, counter });
    return { ...prepared, failedBefore };
  }

  /**
   * Starts a rollout: it is signed and published when this resolves. The rollouts that it supersedes are completed with it.
   * @throws the codes of docs/ERRORS.md under "Rollouts"; nothing has changed then
   */
  start(spec: RolloutSpec, operator: string): Promise<{ record: RolloutRecord; superseded: Rollout[] }> {
    return this.#serial(async () => {
      const { product } = spec;
      const { rollout, controller, members, superseded } = await this.#prepare({ ...spec, dryRun: false });
      this.#deps.repository.demandRolloutsSigner();
      const soaking = [];
      for (const { id } of superseded)
        soaking.push({ record: this.require(id), stats: (await this.#deps.store.stats(id)) ?? NO_STATS });
      await this.#decisions.start({ product, rollout, controller }, members, soaking, operator);
      await this.#evaluate(rollout.id);
      return { record: this.require(rollout.id), superseded };
    });
  }

  /**
   * Does an operator's act. A repeated act changes nothing.
   * @param to label of the release that a rollback leads to
   * @throws SITECAST_ROLLOUT_UNKNOWN, and what `decide` and `findReturnTarget` throw; SITECAST_ROLLOUT_ENDED for a rollout too old for
   * the signed file; SITECAST_ROLLOUT_SUPERSEDED for a rollback that devices wouldn't obey because of a newer rollout
   */
  operate(id: string, request: Omit<OperatorRequest, 'rollbackTo'>, to?: string): Promise<RolloutRecord> {
    return this.#serial(async () => {
      const record = this.require(id);
      const { decided, reopenedFor } = await this.#consider(record, request, to);
      if (decided.state === record.controller) return record;
      await this.#decisions.carryOut(record, decided, reopenedFor);
      await this.#evaluate(id);
      return this.require(id);
    });
  }

  /** Publishes revocations, in the files of the products concerned. */
  publishRevocations(): Promise<void> {
    return this.#serial(() => this.#signed.publishRevocations());
  }

  /** Publishes a product's rollouts unchanged, because their file was damaged. */
  republish(product: string): Promise<void> {
    return this.#serial(async () => this.#signed.publish([await this.#signed.file(product)]));
  }

  /**
   * When no more deltas are to come, signs the orders again without the request to wait for them, all in one change. If the origin can't
   * sign at the moment, a later call does it, or the time in the order passes.
   */
  endDeltaTerms(): Promise<void> {
    return this.#serial(async () => {
      const { awaitsDeltas, now } = this.#deps;
      const ended = this.list().filter(
        ({ product, rollout: { state, release, deltasBy, createdAt } }) =>
          (state === 'active' || state === 'paused') &&
          deltasBy !== undefined &&
          Date.parse(deltasBy) > now() &&
          awaitsDeltas?.(product, release.counter, Date.parse(createdAt)) === false,
      );
      if (ended.length > 0 && this.#canPublish) await this.#decisions.endDeltaTerms(ended);
    });
  }

  /** Brings records, files and the registry in line after an interruption, and evaluates every rollout. */
  reconcile(): Promise<void> {
    return this.#serial(async () => {
      await this.#decisions.reconcile();
      // If keys are missing, a later call does it.
      if (this.#canPublish) await this.#signed.publishRevocations();
      for (const { rollout } of this.list()) await this.#markOverdue(rollout.id);
      await this.#evaluateAll();
    });
  }

  /** Called when outcomes have changed durably: decides soon. The cost doesn't depend on the size of the fleet. */
  noteOutcomes(changes: readonly OutcomeChange[]): void {
    for (const id of new Set(changes.map(({ rolloutId }) => rolloutId))) {
      this.#decide(id).then(
        decided => {
          if (decided?.isChange === true) this.#scheduler.soon(id);
        },
        // The evaluation meets the same error, logs it and is tried again.
        () => this.#scheduler.soon(id),
      );
    }
  }

  /** Evaluates every rollout. @returns when the decisions are published */
  checkCompletion(): Promise<void> {
    return this.#serial(() => this.#evaluateAll());
  }

  async stop(): Promise<void> {
    this.#scheduler.stop();
    await this.#serial(() => undefined);
  }

  #consider(record: RolloutRecord, request: Omit<OperatorRequest, 'rollbackTo'>, to: string | undefined) {
    return considerAct({ ...this.#deps, signed: this.#signed }, record, request, to);
  }

  async #prepare(spec: RolloutSpec): Promise<PreparedRollout> {
    const file = await this.#signed.file(spec.product);
    const prepared = await prepareRollout(this.#deps, spec, file, id => this.#isSoakingLast(id));
    const { id } = prepared.rollout;
    if (!this.#deps.store.record(id)) return prepared;
    throw new SitecastError('conflict', 'SITECAST_ROLLOUT_EXISTS', `there is a rollout ${id} already`);
  }

  /** Marks devices that are past the deadline, unless their progress shows that they are at work. */
  #markOverdue(id: string): Promise<void> {
    const { store, progress, now } = this.#deps;
    const nowMs = now();
    return store.markOverdue(id, nowMs, deviceId => progress.get(deviceId, nowMs)?.rollout === id);
  }

  async #isSoakingLast(id: string): Promise<boolean> {
    const { store } = this.#deps;
    const stats = await store.stats(id);
    const record = store.record(id);
    return record && stats ? isSoakingLast(record.controller, stats) : false;
  }

  /** Whether a decision could be published now. If not, none is made, since it would be announced and undone again and again. */
  get #canPublish(): boolean {
    return this.#deps.leadership.isHeld && this.canSign;
  }

  async #decide(id: string): Promise<(Decided & { isChange: boolean }) | undefined> {
    const { store } = this.#deps;
    const stats = await store.stats(id);
    const record = store.record(id);
    if (!stats || !record) return undefined;
    const decided = decide(record.controller, { type: 'reported', stats }, this.#deps.now());
    return { ...decided, isChange: decided.state !== record.controller };
  }

  /** Evaluates all rollouts, even if one of them can't be evaluated. @throws the first error */
  async #evaluateAll(): Promise<void> {
    const failures: unknown[] = [];
    for (const { rollout } of this.list())
      await this.#evaluate(rollout.id).catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw failures[0];
  }

  /** Decides and acts until there is nothing more to decide: a stage without new devices may end at once. */
  async #evaluate(id: string): Promise<void> {
    for (let turn = 0; turn <= 2 * MAX_STAGES; turn += 1) {
      const decided = await this.#decide(id);
      if (!decided) return;
      for (const effect of decided.effects)
        if (effect.type === 'timer') this.#scheduler.later(id, effect.atMs - this.#deps.now());
      if (!decided.isChange || !this.#canPublish) return;
      await this.#decisions.carryOut(this.require(id), decided);
    }
  }
}
