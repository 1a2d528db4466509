import type { AuditAction } from '@sitecast/shared/audit';
import type { Rollout, RolloutsFile } from '@sitecast/shared/fleet';
import type { Audit } from '../audit/audit.ts';
import type { Events } from '../events/events.ts';
import { errorFields, type Log } from '../log.ts';
import { refuseUnlisted } from './acts.ts';
import type { CohortStore } from './cohort-store.ts';
import { decide } from './controller/decide.ts';
import { type Decided, type Effect, ORIGIN } from './controller/effects.ts';
import { type ControllerState, figuresOf, type RolloutStats } from './controller/state.ts';
import type { EvaluationScheduler } from './evaluation-scheduler.ts';
import { asCompleted, prunable, type SignedRollouts } from './published.ts';
import { type Change, isUnderWay, newRecord, type RolloutRecord, withChange, withEnd } from './record.ts';
import { reconcileRecords } from './reconcile-records.ts';

/** A decision about a rollout, as it is audited and announced. */
interface Decision {
  action: AuditAction;
  by: string;
  details: Record<string, unknown>;
}

const EVENT_OF_ACTION = new Map([
  ['rollout.start', 'rollout.started'],
  ['rollout.pause', 'rollout.paused'],
  ['rollout.resume', 'rollout.resumed'],
  ['rollout.rollback', 'rollout.rollingBack'],
  ['rollout.abort', 'rollout.aborted'],
  ['rollout.complete', 'rollout.completed'],
  ['rollout.retry', 'rollout.retried'],
]);

const STOPPED: ReadonlySet<Rollout['state']> = new Set(['paused', 'rollingBack']);

type PublishEffect = Extract<Effect, { type: 'publish' }>;

/** What is to be published of a rollout, and recorded. */
interface NewState {
  controller: ControllerState;
  publication: PublishEffect;
  change: Change;
  reopenedFor: readonly string[] | undefined;
}

/** The end of a rollout that the start of the next completes. */
interface Ending {
  rollout: Rollout;
  /** With the change on its way, and once it is published. */
  pending: RolloutRecord;
  after: RolloutRecord;
  decision: Decision;
}

interface DecisionsDeps {
  store: CohortStore;
  signed: SignedRollouts;
  scheduler: Pick<EvaluationScheduler, 'cancel'>;
  audit: Audit;
  events: Events;
  now: () => number;
  log: Log;
}

/**
 * Carries out what was decided about rollouts: audits it, records it as pending, publishes it, records it as done, announces it.
 * After a crash between two of these steps `reconcile` finishes or undoes the decision. The caller lets one run at a time.
 */
export class Decisions {
  readonly #deps: DecisionsDeps;

  constructor(deps: DecisionsDeps) {
    this.#deps = deps;
  }

  /**
   * Publishes a new rollout, and completes the rollouts that it supersedes.
   * @param members ids of the devices in its first stage
   * @param superseded with their last stats
   */
  async start(
    { product, rollout, controller }: { product: string; rollout: Rollout; controller: ControllerState },
    members: readonly string[],
    superseded: readonly { record: RolloutRecord; stats: RolloutStats }[],
    operator: string,
  ): Promise<void> {
    const { store, signed, audit, now } = this.#deps;
    const { id } = rollout;
    const about = { by: operator, next: id, nowMs: now() };
    const endings = superseded.map(({ record, stats }) => endingOf(record, stats, about));
    const file = await signed.file(product);
    const pruned = prunable(file);
    const record = newRecord(product, rollout, controller, operator);
    const decision: Decision = {
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
      await audit.record({ ...ending, subject: `rollout:${after.rollout.id}` });
    await audit.record({ ...decision, subject: `rollout:${id}` });
    const prunedRecords = pruned.flatMap(({ id }) => {
      const known = store.record(id);
      return known ? [{ ...known, isPruned: true }] : [];
    });
    await store.change({
      records: [record, ...endings.map(({ pending }) => pending), ...prunedRecords],
      frozen: { rolloutId: id, stage: 0, ids: members },
    });
    const rollouts = [...withEndings(file, endings, pruned), rollout];
    await this.#publish(() => signed.publish([{ ...file, rollouts }]));
    for (const { after, decision: ending } of endings) {
      await this.#record(after);
      this.#announce(after.rollout.id, ending);
    }
    this.#announce(id, decision);
  }

  /**
   * Carries out a decision of the controller.
   * @param reopenedFor of an ended rollout: ids of the devices that it concerns from now on
   */
  async carryOut(
    record: RolloutRecord,
    { state: controller, effects }: Decided,
    reopenedFor?: readonly string[],
  ): Promise<void> {
    const { store, signed, audit } = this.#deps;
    const { id } = record.rollout;
    const decision = effects.find(effect => effect.type === 'decision');
    const publication = effects.find(effect => effect.type === 'publish');
    const file = publication && (await signed.file(record.product));
    if (file) refuseUnlisted(record, file);
    if (decision) {
      const { action, by, details } = decision;
      await audit.record({ by, action, subject: `rollout:${id}`, details });
    }
    const change = this.#changeOf(controller, decision, publication);
    if (publication && file) {
      await this.#publishChange(record, { controller, publication, change, reopenedFor }, file);
    } else {
      const next = { ...record, controller };
      await store.change({ records: [decision ? withChange(next, change) : next] });
    }
    if (decision) this.#announce(id, decision);
  }

  /** Publishes rollouts without the time until which deltas are awaited. */
  async endDeltaTerms(records: readonly RolloutRecord[]): Promise<void> {
    const { store, signed, log } = this.#deps;
    const ids = new Set(records.map(({ rollout }) => rollout.id));
    const files = await signed.all();
    const changed = [...new Set(records.map(({ product }) => product))].flatMap(product => {
      const file = files.get(product);
      return file ? [{ ...file, rollouts: file.rollouts.map(known => withoutTerm(known, ids)) }] : [];
    });
    await this.#publish(() => signed.publish(changed));
    // After a crash right here the signed files decide: see `reconcile`.
    await store.change({
      records: records.map(record => ({ ...record, rollout: withoutTerm(record.rollout, ids) })),
    });
    log.info({ rollouts: [...ids] }, 'no deltas are awaited any more: the orders are signed anew');
  }

  /** Brings the records in line with the signed files. */
  async reconcile(): Promise<void> {
    const { store, scheduler } = this.#deps;
    await reconcileRecords(this.#deps);
    for (const record of store.records()) if (!isUnderWay(record)) scheduler.cancel(record.rollout.id);
  }

  /** Records a change that is published. The cohort of a rollout that ends with it isn't needed any more. */
  async #record(after: RolloutRecord): Promise<void> {
    const { store, scheduler } = this.#deps;
    const rolloutId = after.rollout.id;
    const hasEnded = !isUnderWay(after);
    // By the record that is stored it is still under way, and its cohort is there.
    const stats = hasEnded ? await store.stats(rolloutId) : undefined;
    const record = withEnd(after, stats && figuresOf(stats));
    await store.change({ records: [record], ...(hasEnded && { thawed: [{ rolloutId }] }) });
    if (hasEnded) scheduler.cancel(rolloutId);
  }

  #changeOf(
    controller: ControllerState,
    decision: Decision | undefined,
    publication: PublishEffect | undefined,
  ): Change {
    const { phase, stop } = controller;
    return {
      at: new Date(this.#deps.now()).toISOString(),
      by: decision?.by ?? ORIGIN,
      state: phase,
      ...(decision && { action: decision.action }),
      ...(publication?.beginStage !== undefined && { stage: publication.beginStage }),
      ...(STOPPED.has(phase) && stop && { why: stop.why }),
    };
  }

  async #publishChange(
    record: RolloutRecord,
    { controller, publication, change, reopenedFor }: NewState,
    file: RolloutsFile,
  ): Promise<void> {
    const { store, signed, now } = this.#deps;
    const { id } = record.rollout;
    const { phase, attempt, beginStage } = publication;
    const { rollbackTo: _rollbackTo, ...known } =
      file.rollouts.find(rollout => rollout.id === id) ?? record.rollout;
    const { rollbackTo } = controller;
    const { cohort, joined } =
      beginStage === undefined
        ? { ...known, joined: [] }
        : await store.stageCohort(record, known, beginStage, now());
    const rollout = { ...known, cohort, state: phase, attempt, ...(rollbackTo && { rollbackTo }) };
    const ids = reopenedFor ?? (beginStage === undefined ? undefined : joined);
    const frozen = ids && { rolloutId: id, stage: controller.stage, ids };
    const pending = { ...record, next: { rollout, controller, change } };
    await store.change({ records: [pending], ...(frozen && { frozen }) });
    await this.#publish(() => signed.replace(file, rollout));
    const { next: _next, ...rest } = record;
    await this.#record(withChange({ ...rest, rollout, controller }, change));
  }

  async #publish(publish: () => Promise<void>): Promise<void> {
    try {
      await publish();
    } catch (error) {
      await this.reconcile().catch((again: unknown) =>
        this.#deps.log.error(errorFields(again), 'a rollout that could not be published is tidied up later'),
      );
      throw error;
    }
  }

  /** Emits and logs a decision that has taken effect. */
  #announce(rollout: string, { action, by, details }: Decision): void {
    const { events, log } = this.#deps;
    events.emit({ type: EVENT_OF_ACTION.get(action) ?? action, rollout, data: { by, ...details } });
    log.info({ rollout, by, ...details }, action);
  }
}

function withoutTerm(rollout: Rollout, ids: ReadonlySet<string>): Rollout {
  if (!ids.has(rollout.id)) return rollout;
  const { deltasBy: _deltasBy, ...rest } = rollout;
  return rest;
}

/**
 * Completes a rollout in its last soak, because the next one begins.
 * @param by who starts the next one; @param next its id
 */
function endingOf(
  record: RolloutRecord,
  stats: RolloutStats,
  { by, next, nowMs }: { by: string; next: string; nowMs: number },
): Ending {
  const { state: controller } = decide(
    record.controller,
    { type: 'operator', act: 'complete', by, stats },
    nowMs,
  );
  const rollout = asCompleted(record.rollout);
  const action = 'rollout.complete';
  const change = { at: new Date(nowMs).toISOString(), by, state: controller.phase, action };
  const { stage, attempt } = controller;
  return {
    rollout,
    pending: { ...record, next: { rollout, controller, change } },
    after: withChange({ ...record, rollout, controller }, change),
    decision: { action, by, details: { stage, attempt, figures: figuresOf(stats), supersededBy: next } },
  };
}

/** A product's rollouts after some have ended and others were pruned. */
function withEndings(
  { rollouts }: RolloutsFile,
  endings: readonly Ending[],
  pruned: readonly Rollout[],
): Rollout[] {
  const ended = new Map(endings.map(({ rollout }) => [rollout.id, rollout]));
  return rollouts.filter(known => !pruned.includes(known)).map(known => ended.get(known.id) ?? known);
}
