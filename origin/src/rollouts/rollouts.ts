import { MAX_STAGES, type OperatorAct, type RolloutPreview, type RolloutSpec } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import type { Rollout } from '@sitecast/shared/fleet';
import pLimit from 'p-limit';
import type { Audit } from '../audit/audit.ts';
import type { Events } from '../events/events.ts';
import type { OutcomeChange } from '../fleet/intake-round.ts';
import type { ProgressBoard } from '../fleet/progress.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Log } from '../log.ts';
import type { Repository } from '../repository/repository.ts';
import type { After } from '../upkeep.ts';
import { considerAct, NO_STATS, possibleActs, previewOf } from './acts.ts';
import type { CohortStore } from './cohort-store.ts';
import { Cohorts } from './cohorts.ts';
import { decide, isSoakingLast } from './controller/decide.ts';
import { type Decided, ORIGIN } from './controller/effects.ts';
import type { OperatorRequest } from './controller/operate.ts';
import { Decisions } from './decisions.ts';
import { EvaluationScheduler } from './evaluation-scheduler.ts';
import { type PreparedRollout, prepareRollout } from './prepare.ts';
import { IS_UNDER_WAY, SignedRollouts } from './published.ts';
import type { RolloutRecord } from './record.ts';
import { RolloutRecords, sweepCohorts } from './records.ts';

interface RolloutsDeps {
  repository: Repository;
  registry: Registry;
  store: CohortStore;
  progress: ProgressBoard;
  audit: Audit;
  events: Events;
  now: () => number;
  after: After;
  log: Log;
}

/**
 * Rollouts: how they start, grow, stop and end. The signed files are the truth, and every change of them passes here, one after the
 * other. The controller decides; `Decisions` carries out what it decides.
 */
export class Rollouts {
  readonly cohorts: Cohorts;
  readonly #deps: RolloutsDeps;
  readonly #records: RolloutRecords;
  readonly #signed: SignedRollouts;
  readonly #decisions: Decisions;
  readonly #scheduler: EvaluationScheduler;
  readonly #serial = pLimit(1);

  private constructor(deps: RolloutsDeps, records: RolloutRecords) {
    this.#deps = deps;
    this.#records = records;
    this.#signed = new SignedRollouts({ ...deps, records });
    this.cohorts = new Cohorts(deps);
    this.#scheduler = new EvaluationScheduler({
      ...deps,
      serial: this.#serial,
      evaluate: id => this.#evaluate(id),
    });
    const { cohorts } = this;
    this.#decisions = new Decisions({
      ...deps,
      records,
      signed: this.#signed,
      cohorts,
      scheduler: this.#scheduler,
    });
  }

  static async open(deps: RolloutsDeps): Promise<Rollouts> {
    const records = await RolloutRecords.open(deps.store);
    const rollouts = new Rollouts(deps, records);
    await rollouts.reconcile();
    await sweepCohorts({ ...deps, records, cohorts: rollouts.cohorts });
    return rollouts;
  }

  /** Newest first. */
  list(): RolloutRecord[] {
    return this.#records.list();
  }

  /** @throws SITECAST_ROLLOUT_UNKNOWN (notFound) */
  require(id: string): RolloutRecord {
    return this.#records.require(id);
  }

  /** Whether the product has a rollout with this id. */
  isOf(id: string, product: string): boolean {
    return this.#records.get(id)?.product === product;
  }

  /** Id of the newest rollout of a release that is under way. */
  idUnderWay(product: string, counter: number): string | undefined {
    const found = this.list().find(
      ({ product: its, rollout: { release, state } }) =>
        its === product && release.counter === counter && IS_UNDER_WAY.has(state),
    );
    return found?.rollout.id;
  }

  /** The acts that would change a rollout now. */
  acts(record: RolloutRecord): Promise<OperatorAct[]> {
    return possibleActs({ signed: this.#signed }, record);
  }

  /**
   * What an act would do now.
   * @param to label of the release that a rollback leads to
   * @throws as `operate`, so that an act which would be refused isn't offered
   */
  async preview(
    id: string,
    request: Pick<OperatorRequest, 'act' | 'isAcknowledged'>,
    to?: string,
  ): Promise<RolloutPreview> {
    const record = this.require(id);
    const { returnTarget, stats } = await this.#consider(record, { ...request, by: ORIGIN }, to);
    const next = record.controller.stage + 1;
    const { stages } = record.controller.plan;
    const joining = (): number =>
      next < stages.length
        ? this.cohorts.freezeStage(record, record.rollout, next, this.#deps.now()).joined.length
        : 0;
    const back = this.cohorts.rollbackProgress(record);
    return previewOf(record, request.act, { stats, back }, joining, returnTarget);
  }

  /** What `start` would begin. @throws as `start`, but not because of a rollout that is under way */
  async dryRun(spec: RolloutSpec): Promise<PreparedRollout> {
    return await this.#prepare({ ...spec, dryRun: true });
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
      const soaking = superseded.map(({ id }) => {
        const record = this.require(id);
        return { record, stats: this.cohorts.stats(record) ?? NO_STATS };
      });
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

  /** Publishes who is revoked, in the files of the products concerned. */
  publishRevocations(): Promise<void> {
    return this.#serial(() => this.#signed.publishRevocations());
  }

  /** Publishes a product's rollouts unchanged, because their file was damaged. */
  republish(product: string): Promise<void> {
    return this.#serial(async () => this.#signed.publish([await this.#signed.file(product)]));
  }

  /** Brings records, files and the registry in line after an interruption, and evaluates every rollout. */
  reconcile(): Promise<void> {
    return this.#serial(async () => {
      await this.#decisions.reconcile();
      // Without keys to sign with, a later call does it.
      if (this.#canPublish()) await this.#signed.publishRevocations();
      for (const record of this.list()) {
        this.cohorts.refresh(record.rollout);
        this.cohorts.markOverdue(record, this.#deps.now());
      }
      await this.#evaluateAll();
    });
  }

  /** Takes durable changes of outcomes. The cost doesn't depend on the size of the fleet. */
  countOutcomes(changes: readonly OutcomeChange[]): void {
    for (const id of this.cohorts.count(changes)) {
      if (this.#decide(id)?.isChange === true) this.#scheduler.soon(id);
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
    const { cohorts } = this;
    return considerAct({ ...this.#deps, signed: this.#signed, cohorts }, record, request, to);
  }

  async #prepare(spec: RolloutSpec): Promise<PreparedRollout> {
    const file = await this.#signed.file(spec.product);
    const prepared = await prepareRollout(this.#deps, spec, file, id => this.#isSoakingLast(id));
    const { id } = prepared.rollout;
    if (!this.#records.get(id)) return prepared;
    throw new SitecastError('conflict', 'SITECAST_ROLLOUT_EXISTS', `there is a rollout ${id} already`);
  }

  #isSoakingLast(id: string): boolean {
    const record = this.#records.get(id);
    const stats = record && this.cohorts.stats(record);
    return record && stats ? isSoakingLast(record.controller, stats) : false;
  }

  /** Whether a decision could be published now. Otherwise none is made: it would be announced and undone again and again. */
  #canPublish(): boolean {
    try {
      this.#deps.repository.demandRolloutsSigner();
      return true;
    } catch (error) {
      // `sitecast status` and /readyz tell what is wrong with the keys or the clock.
      if (error instanceof SitecastError) return false;
      throw error;
    }
  }

  #decide(id: string): (Decided & { isChange: boolean }) | undefined {
    const record = this.#records.get(id);
    const stats = record && this.cohorts.stats(record);
    if (!stats) return undefined;
    const decided = decide(record.controller, { type: 'reported', stats }, this.#deps.now());
    return { ...decided, isChange: decided.state !== record.controller };
  }

  /** A rollout that can't be evaluated doesn't keep back the others. @throws the first error */
  async #evaluateAll(): Promise<void> {
    const failures: unknown[] = [];
    for (const { rollout } of this.list())
      await this.#evaluate(rollout.id).catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw failures[0];
  }

  /** Decides and acts until nothing more is to be decided: a stage without new devices may end at once. */
  async #evaluate(id: string): Promise<void> {
    for (let turn = 0; turn <= 2 * MAX_STAGES; turn += 1) {
      const decided = this.#decide(id);
      if (!decided) return;
      for (const effect of decided.effects)
        if (effect.type === 'timer') this.#scheduler.later(id, effect.atMs - this.#deps.now());
      if (!decided.isChange || !this.#canPublish()) return;
      await this.#decisions.carryOut(this.require(id), decided);
    }
  }
}
