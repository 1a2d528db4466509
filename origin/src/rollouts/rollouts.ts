import { MAX_STAGES, type OperatorAct, type RolloutPreview } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import type { Rollout, RolloutsFile } from '@sitecast/shared/fleet';
import type { Audit } from '../audit/audit.ts';
import type { Events } from '../events/events.ts';
import type { OutcomeChange } from '../fleet/intake-round.ts';
import type { ProgressBoard } from '../fleet/progress.ts';
import type { Registry } from '../fleet/registry.ts';
import { errorFields, type Log } from '../log.ts';
import type { Repository } from '../repository/repository.ts';
import pLimit from 'p-limit';
import type { After } from '../upkeep.ts';
import { IS_GOING_ON, prunable, refuseUnlisted } from './checks.ts';
import type { CohortStore } from './cohort-store.ts';
import { decide, isSoakingLast } from './controller/decide.ts';
import { type Decided, type Effect, ORIGIN } from './controller/effects.ts';
import type { OperatorWish } from './controller/operate.ts';
import type { ControllerState } from './controller/state.ts';
import { type Decision, tell } from './decisions.ts';
import { freezeStage } from './freezing.ts';
import { recordOf } from './mending.ts';
import { previewOf } from './preview.ts';
import { type PreparedRollout, prepareRollout } from './prepare.ts';
import { type Change, type RolloutRecord, withChange } from './record.ts';
import { type Reconciled, reconcileRecords, sweepCohorts } from './reconcile.ts';
import { RolloutRecords } from './records.ts';
import { SignedRollouts } from './signed.ts';
import { Standings } from './standings.ts';
import { endingOf, succeeded } from './succession.ts';
import { Tallies } from './tallies.ts';
import { Wakes } from './wakes.ts';
import type { WantedRollout } from './wanted.ts';
import { considerWish, NO_FIGURES, possibleActs } from './wishes.ts';

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

const STOPPED: ReadonlySet<Rollout['state']> = new Set(['paused', 'rollingBack']);

type Order = Extract<Effect, { type: 'publish' }>;

/** What is to be published of a rollout, and remembered. */
interface NewState {
  controller: ControllerState;
  order: Order;
  change: Change;
  reopenedFor: readonly string[] | undefined;
}

interface StartedRollout {
  record: RolloutRecord;
  /** Those that soaked in their last stage, and are completed now. */
  superseded: Rollout[];
}

/**
 * Rollouts: the signed files decide, and everything that changes them passes here, one after the other. What is to
 * change, the controller says; a record beside each file remembers where the controller stood and who did what. After a
 * crash records are brought in line with the files.
 */
export class Rollouts {
  readonly tallies: Tallies;
  readonly standings: Standings;
  readonly #deps: RolloutsDeps;
  readonly #records: RolloutRecords;
  readonly #signed: SignedRollouts;
  readonly #serial = pLimit(1);
  readonly #wakes: Wakes;
  readonly #parts: RolloutsDeps & Reconciled;

  private constructor(deps: RolloutsDeps, records: RolloutRecords) {
    this.#deps = deps;
    this.#records = records;
    this.#signed = new SignedRollouts({ ...deps, records });
    this.tallies = new Tallies(deps.store);
    this.standings = new Standings({ ...deps, tallies: this.tallies });
    const { tallies, standings } = this;
    this.#parts = { ...deps, records, signed: this.#signed, tallies, standings };
    this.#wakes = new Wakes({ ...deps, serial: this.#serial, judge: id => this.#judge(id) });
  }

  static async open(deps: RolloutsDeps): Promise<Rollouts> {
    const rollouts = new Rollouts(deps, await RolloutRecords.open(deps.store));
    await rollouts.reconcile();
    await sweepCohorts(rollouts.#parts);
    return rollouts;
  }

  list(): RolloutRecord[] {
    return this.#records.list();
  }

  /** @throws SITECAST_ROLLOUT_UNKNOWN (notFound) */
  require(id: string): RolloutRecord {
    return this.#records.require(id);
  }

  /** Whether there is such a rollout, of this product. */
  isOf(id: string, product: string): boolean {
    return this.#records.get(id)?.product === product;
  }

  /** What an operator can do with a rollout now. */
  acts(record: RolloutRecord): Promise<OperatorAct[]> {
    return possibleActs(this.#parts, record);
  }

  /**
   * What an act would do now.
   * @param to label of the release that a rollback is to lead to
   * @throws as `operate`, so that nobody is asked about what would be refused then
   */
  async preview(
    id: string,
    wish: Pick<OperatorWish, 'act' | 'isAcknowledged'>,
    to?: string,
  ): Promise<RolloutPreview> {
    const record = this.require(id);
    const { goal, figures } = await considerWish(this.#parts, record, { ...wish, by: ORIGIN }, to);
    const next = record.controller.stage + 1;
    const { stages } = record.controller.plan;
    const joining = (): number =>
      next < stages.length ? this.#frozen(record, record.rollout, next).joined.length : 0;
    const back = this.standings.goingBack(record);
    return previewOf(record, wish.act, { figures, back }, joining, goal);
  }

  /** What would begin, without beginning it. @throws as `start`, but not for a rollout that is under way */
  async dryRun(wanted: WantedRollout): Promise<PreparedRollout> {
    return await this.#prepare(wanted, true);
  }

  /**
   * Starts a rollout: signed and published when it returns. Those that it supersedes are completed with it.
   * @throws the codes of docs/ERRORS.md under "Rollouts"; nothing has changed then
   */
  start(wanted: WantedRollout, operator: string): Promise<StartedRollout> {
    return this.#serial(async () => {
      const { product } = wanted;
      const { rollout, controller, members, superseded } = await this.#prepare(wanted);
      this.#deps.repository.demandRolloutsSigner();
      const { id } = rollout;
      const about = { by: operator, next: id, nowMs: this.#deps.now() };
      const endings = superseded.map(({ id: before }) => {
        const soaking = this.require(before);
        return endingOf(soaking, this.standings.figures(soaking) ?? NO_FIGURES, about);
      });
      const file = await this.#signed.file(product);
      const pruned = prunable(file);
      const record = recordOf(product, rollout, controller, operator);
      const decision = {
        action: 'rollout.start',
        by: operator,
        details: {
          product,
          release: rollout.release,
          match: rollout.match,
          plan: controller.plan,
          members: members.length,
        },
      };
      for (const { decision: ending, after } of endings)
        await this.#deps.audit.record({ ...ending, subject: `rollout:${after.rollout.id}` });
      await this.#deps.audit.record({ ...decision, subject: `rollout:${id}` });
      const prunedRecords = pruned.map(({ id }) => ({ ...this.require(id), isPruned: true }));
      await this.#records.change({
        records: [record, ...endings.map(({ pending }) => pending), ...prunedRecords],
        frozen: { rolloutId: id, stage: 0, ids: members },
      });
      const rollouts = [...succeeded(file, endings, pruned), rollout];
      // Followed first: a device may report as soon as the file is out.
      await this.#follow(record);
      await this.#publish(() => this.#signed.publish([{ ...file, rollouts }]));
      for (const ending of endings) await this.#remember(ending.after, ending.decision);
      tell(this.#deps, id, decision);
      await this.#judge(id);
      return { record: this.require(id), superseded };
    });
  }

  /**
   * Does what an operator wants; the same again changes nothing.
   * @param to label of the release that a rollback is to lead to
   * @throws SITECAST_ROLLOUT_UNKNOWN, and what `decide` and `findReturnTarget` throw; SITECAST_ROLLOUT_ENDED for one that is too old to be in
   * the signed file; SITECAST_ROLLOUT_SUPERSEDED for a rollback that a newer rollout would not let devices obey
   */
  operate(id: string, wish: Omit<OperatorWish, 'rollbackTo'>, to?: string): Promise<RolloutRecord> {
    return this.#serial(async () => {
      const record = this.require(id);
      const { decided, reopenedFor } = await considerWish(this.#parts, record, wish, to);
      if (decided.state === record.controller) return record;
      await this.#apply(record, decided, reopenedFor);
      await this.#judge(id);
      return this.require(id);
    });
  }

  /** Publishes who is revoked, in the files of the products that it concerns. */
  publishRevocations(): Promise<void> {
    return this.#serial(() => this.#signed.publishRevocations());
  }

  /** Publishes a product's rollouts anew, as they are: their file was damaged. */
  republish(product: string): Promise<void> {
    return this.#serial(async () => this.#signed.publish([await this.#signed.file(product)]));
  }

  /** Brings records, files and the registry in line, whatever was interrupted, and does what has become due. */
  reconcile(): Promise<void> {
    return this.#serial(async () => {
      await this.#reconcile();
      // Where nothing can be signed it's done at a later turn.
      if (this.#mayDecide()) await this.#signed.publishRevocations();
      for (const record of this.list()) {
        this.standings.refresh(record.rollout);
        this.standings.lookForOverdue(record, this.#deps.now());
      }
      await this.#judgeAll();
    });
  }

  /** To be told of each change once it's durable. What it costs doesn't depend on the fleet. */
  countOutcomes(changes: readonly OutcomeChange[]): void {
    this.tallies.apply(changes);
    for (const id of this.standings.count(changes)) {
      if (this.#decide(id)?.isChange === true) this.#wakes.soon(id);
    }
  }

  /** Decides on everything that has been reported. @returns when that is published */
  checkCompletion(): Promise<void> {
    return this.#serial(() => this.#judgeAll());
  }

  async stop(): Promise<void> {
    this.#wakes.stop();
    await this.#serial(() => undefined);
  }

  async #prepare(wanted: WantedRollout, isDryRun = false): Promise<PreparedRollout> {
    const file = await this.#signed.file(wanted.product);
    const prepared = await prepareRollout(this.#deps, wanted, file, {
      isDryRun,
      makesWay: id => this.#isSoakingLast(id),
    });
    const { id } = prepared.rollout;
    if (!this.#records.get(id)) return prepared;
    throw new SitecastError('conflict', 'SITECAST_ROLLOUT_EXISTS', `there is a rollout ${id} already`);
  }

  #isSoakingLast(id: string): boolean {
    const record = this.#records.get(id);
    const figures = record && this.standings.figures(record);
    return record && figures ? isSoakingLast(record.controller, figures) : false;
  }

  /** Whether a decision could be published now. One that can't isn't made: it would be told, and undone, again and again. */
  #mayDecide(): boolean {
    try {
      this.#deps.repository.demandRolloutsSigner();
      return true;
    } catch (error) {
      // `sitecast status` and /readyz say what is wrong with the keys, or with the clock.
      if (error instanceof SitecastError) return false;
      throw error;
    }
  }

  #decide(id: string): (Decided & { isChange: boolean }) | undefined {
    const record = this.#records.get(id);
    const figures = record && this.standings.figures(record);
    if (!figures) return undefined;
    const decided = decide(record.controller, { type: 'reported', figures }, this.#deps.now());
    return { ...decided, isChange: decided.state !== record.controller };
  }

  /** One that can't be decided upon keeps back no other. @throws what the first of them threw */
  async #judgeAll(): Promise<void> {
    const failures: unknown[] = [];
    for (const { rollout } of this.list())
      await this.#judge(rollout.id).catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw failures[0];
  }

  /** Decides and acts until there's nothing more to decide: a stage that brings nobody in may end at once. */
  async #judge(id: string): Promise<void> {
    for (let turn = 0; turn <= 2 * MAX_STAGES; turn += 1) {
      const decided = this.#decide(id);
      if (!decided) return;
      for (const effect of decided.effects)
        if (effect.type === 'timer') this.#wakes.later(id, effect.atMs - this.#deps.now());
      if (!decided.isChange || !this.#mayDecide()) return;
      await this.#apply(this.require(id), decided);
    }
  }

  /** Remembers what has been published. */
  async #remember(record: RolloutRecord, decision: Decision): Promise<void> {
    await this.#records.change({ records: [record] });
    await this.#follow(record);
    tell(this.#deps, record.rollout.id, decision);
  }

  /**
   * Makes a decision true. Told first, then written beside, then published, then remembered.
   * @param reopenedFor whom one that had ended deals with from now on
   */
  async #apply(
    record: RolloutRecord,
    { state: controller, effects }: Decided,
    reopenedFor?: readonly string[],
  ): Promise<void> {
    const { id } = record.rollout;
    const decision = effects.find(effect => effect.type === 'decision');
    const order = effects.find(effect => effect.type === 'publish');
    const file = order && (await this.#signed.file(record.product));
    if (file) refuseUnlisted(record, file);
    if (decision) {
      const { action, by, details } = decision;
      await this.#deps.audit.record({ by, action, subject: `rollout:${id}`, details });
    }
    const change = this.#changeOf(controller, decision, order);
    if (order && file) {
      await this.#publishOrder(record, { controller, order, change, reopenedFor }, file);
    } else {
      const next = { ...record, controller };
      await this.#records.change({ records: [decision ? withChange(next, change) : next] });
    }
    if (decision) tell(this.#deps, id, decision);
  }

  #changeOf(controller: ControllerState, decision: Decision | undefined, order: Order | undefined): Change {
    const { phase, stop } = controller;
    return {
      at: new Date(this.#deps.now()).toISOString(),
      by: decision?.by ?? ORIGIN,
      state: phase,
      ...(decision && { action: decision.action }),
      ...(order?.beginStage !== undefined && { stage: order.beginStage }),
      ...(STOPPED.has(phase) && stop && { why: stop.why }),
    };
  }

  async #publishOrder(
    record: RolloutRecord,
    { controller, order, change, reopenedFor }: NewState,
    file: RolloutsFile,
  ): Promise<void> {
    const { id } = record.rollout;
    const { phase, attempt, beginStage } = order;
    const { rollbackTo: _rollbackTo, ...known } =
      file.rollouts.find(rollout => rollout.id === id) ?? record.rollout;
    const { rollbackTo } = controller;
    const { cohort, joined } =
      beginStage === undefined ? { ...known, joined: [] } : this.#frozen(record, known, beginStage);
    const rollout = { ...known, cohort, state: phase, attempt, ...(rollbackTo && { rollbackTo }) };
    const newcomers = reopenedFor ?? (beginStage === undefined ? undefined : joined);
    const frozen = newcomers && { rolloutId: id, stage: controller.stage, ids: newcomers };
    const pending = { ...record, next: { rollout, controller, change } };
    await this.#records.change({ records: [pending], ...(frozen && { frozen }) });
    await this.#publish(() => this.#signed.replace(file, rollout));
    const { next: _next, ...rest } = record;
    const after = withChange({ ...rest, rollout, controller }, change);
    await this.#records.change({ records: [after] });
    await this.#follow(after);
    if (beginStage !== undefined) this.standings.join(rollout, beginStage, joined);
    this.standings.refresh(rollout);
  }

  #frozen(record: RolloutRecord, known: Rollout, stage: number) {
    const { registry, now } = this.#deps;
    return freezeStage({ registry, nowMs: now() }, record, known, stage, this.standings.ledger(known.id));
  }

  async #publish(publish: () => Promise<void>): Promise<void> {
    try {
      await publish();
    } catch (error) {
      await this.#reconcile().catch((again: unknown) =>
        this.#deps.log.error(errorFields(again), 'a rollout that could not be published is tidied up later'),
      );
      throw error;
    }
  }

  /** Follows what is going on, and lets go of what isn't any more. */
  async #follow(record: RolloutRecord): Promise<void> {
    const { id, state } = record.rollout;
    if (IS_GOING_ON.has(state)) {
      await this.tallies.follow(id);
      await this.standings.follow(record);
      return;
    }
    this.#wakes.forget(id);
    if (!this.standings.ledger(id)) return;
    this.tallies.forget(id);
    this.standings.forget(id);
    await this.#records.change({ thawed: [{ rolloutId: id }] });
  }

  async #reconcile(): Promise<void> {
    await reconcileRecords(this.#parts);
    for (const record of this.list()) await this.#follow(record);
  }
}
