import type { RollbackProgress } from '@sitecast/shared/api';
import type { Rollout } from '@sitecast/shared/fleet';
import type { Registry } from '../../fleet/registry.ts';
import {
  type CohortChange,
  type CohortRow,
  type CohortStore,
  IDS_A_ROW,
  type Recount,
  type StageCohort,
} from '../../rollouts/cohort-store.ts';
import type { RolloutStats } from '../../rollouts/controller/state.ts';
import { isUnderWay, type RolloutRecord } from '../../rollouts/record.ts';
import {
  type RolloutProgress,
  statusOf,
  type StatusQuery,
  type StatusSources,
} from '../../rollouts/status.ts';
import type { EmbeddedDatabase } from './database.ts';
import { type OutcomeCache, partsOfOutcome } from './outcome-cache.ts';
import type { RowWrite } from './rows.ts';
import { keyOf } from './tables.ts';
import { recountOf, stageCohortOf, TrackedCohort } from './tracked-cohort.ts';

/** A cohort that is in memory, or is being read. */
interface Followed {
  /** Rows that were written since its reading began; undefined for deleted ones. */
  readonly written: Map<string, CohortRow | undefined>;
  cohort: TrackedCohort | undefined;
  ready: Promise<TrackedCohort | undefined>;
}

interface CohortStoreDeps {
  /** Follows each commit before this store does. */
  registry: Registry;
  /** Follows each commit before this store does. */
  outcomes: OutcomeCache;
}

/**
 * Rollouts' records and cohorts in the origin's database. The records are in memory, and so is the cohort of each rollout under way, once
 * somebody has asked about it: thousands of reports a second are counted there.
 */
export class EmbeddedCohortStore implements CohortStore {
  readonly #database: EmbeddedDatabase;
  readonly #deps: CohortStoreDeps;
  readonly #records = new Map<string, RolloutRecord>();
  readonly #followed = new Map<string, Followed>();

  private constructor(database: EmbeddedDatabase, deps: CohortStoreDeps) {
    this.#database = database;
    this.#deps = deps;
    database.onCommit(writes => this.#follow(writes));
  }

  /** @throws SITECAST_STATE_DAMAGED */
  static async open(database: EmbeddedDatabase, deps: CohortStoreDeps): Promise<EmbeddedCohortStore> {
    const store = new EmbeddedCohortStore(database, deps);
    for await (const [id, record] of database.rows.entries('rollout')) store.#records.set(id, record);
    return store;
  }

  records(): readonly RolloutRecord[] {
    return [...this.#records.values()].sort(
      (one, other) =>
        other.rollout.createdAt.localeCompare(one.rollout.createdAt) ||
        other.rollout.id.localeCompare(one.rollout.id),
    );
  }

  record(rolloutId: string): RolloutRecord | undefined {
    return this.#records.get(rolloutId);
  }

  async change({ records = [], forgotten = [], frozen, thawed = [] }: CohortChange): Promise<void> {
    const writes: RowWrite[] = [
      ...records.map(record => ({ table: 'rollout' as const, key: record.rollout.id, value: record })),
      ...forgotten.map(key => ({ table: 'rollout' as const, key, value: undefined })),
      ...(frozen ? cohortRows(frozen) : []),
    ];
    for (const { rolloutId, stage } of thawed)
      writes.push(
        ...(await this.#deletions(
          stage === undefined ? `${rolloutId}!` : `${keyOf(rolloutId, digits(stage, 2))}!`,
        )),
      );
    await this.#database.transact(transaction => transaction.write(...writes));
  }

  async sweep(): Promise<void> {
    const frozen = new Set<string>();
    for await (const [key] of this.#database.rows.stored('cohort')) frozen.add(rolloutOf(key));
    for (const id of frozen) {
      const record = this.#records.get(id);
      // Of a rollout that is being reopened, the cohort is frozen before the record says so.
      if (record && (isUnderWay(record) || record.next)) continue;
      const writes = await this.#deletions(`${id}!`);
      await this.#database.transact(transaction => transaction.write(...writes));
    }
  }

  async stats(rolloutId: string): Promise<RolloutStats | undefined> {
    return (await this.#cohort(rolloutId))?.stats();
  }

  async stageCohort(
    record: RolloutRecord,
    signed: Rollout,
    stage: number,
    nowMs: number,
  ): Promise<StageCohort> {
    const { registry } = this.#deps;
    const tracker = (await this.#cohort(signed.id))?.tracker;
    return stageCohortOf(record, signed, stage, { registry, tracker, nowMs });
  }

  async markOverdue(rolloutId: string, nowMs: number, isBusy: (deviceId: string) => boolean): Promise<void> {
    (await this.#cohort(rolloutId))?.markOverdue(nowMs, isBusy);
  }

  async rollbackProgress(rolloutId: string): Promise<RollbackProgress | undefined> {
    return (await this.#cohort(rolloutId))?.rollbackProgress();
  }

  async recount(record: RolloutRecord): Promise<Recount> {
    const { outcomes, registry } = this.#deps;
    return recountOf(record, await outcomes.outcomes(record.rollout.id), registry);
  }

  async statusPage(
    record: RolloutRecord,
    query: StatusQuery,
    sources: StatusSources,
  ): Promise<RolloutProgress> {
    const { registry } = this.#deps;
    const { id } = record.rollout;
    const tracker = (await this.#cohort(id))?.tracker;
    const outcomes = await this.#deps.outcomes.outcomes(id);
    return statusOf(record, outcomes, { registry, tracker, ...sources }, query);
  }

  /** The cohort of a rollout under way; undefined for another one. Whoever asks first has it read. */
  async #cohort(rolloutId: string): Promise<TrackedCohort | undefined> {
    if (!this.#isUnderWay(rolloutId)) return undefined;
    const known = this.#followed.get(rolloutId);
    if (known) return known.cohort ?? (await known.ready);
    const followed: Followed = { written: new Map(), cohort: undefined, ready: Promise.resolve(undefined) };
    // Registered before the rows are read: a row that is written meanwhile is newer than the stored one.
    this.#followed.set(rolloutId, followed);
    followed.ready = this.#load(rolloutId, followed);
    return await followed.ready;
  }

  async #load(rolloutId: string, followed: Followed): Promise<TrackedCohort | undefined> {
    try {
      const outcomes = await this.#deps.outcomes.follow(rolloutId);
      const rows = new Map<string, CohortRow>();
      const prefix = `${rolloutId}!`;
      for await (const [key, row] of this.#database.rows.entries('cohort', { prefix })) rows.set(key, row);
      for (const [key, row] of followed.written) {
        if (row) rows.set(key, row);
        else rows.delete(key);
      }
      const record = this.#records.get(rolloutId);
      // It has ended meanwhile.
      if (!record || this.#followed.get(rolloutId) !== followed) return undefined;
      const { registry } = this.#deps;
      followed.cohort = new TrackedCohort(record, { registry, outcomes, rows });
      return followed.cohort;
    } catch (error) {
      if (this.#followed.get(rolloutId) === followed) this.#forget(rolloutId);
      throw error;
    }
  }

  #isUnderWay(rolloutId: string): boolean {
    const record = this.#records.get(rolloutId);
    return record !== undefined && isUnderWay(record);
  }

  #forget(rolloutId: string): void {
    this.#followed.delete(rolloutId);
    this.#deps.outcomes.forget(rolloutId);
  }

  #follow(writes: Iterable<RowWrite>): void {
    const records: Extract<RowWrite, { table: 'rollout' }>[] = [];
    for (const write of writes) {
      if (write.table === 'outcome') this.#takeOutcome(write.key);
      else if (write.table === 'status' || write.table === 'member') this.#look(write.key);
      else if (write.table === 'cohort') this.#takeRow(write.key, write.value);
      else if (write.table === 'rollout') records.push(write);
    }
    // Last: the rows of a stage are there when its record says that it has begun.
    for (const { key, value } of records) this.#takeRecord(key, value);
  }

  #takeOutcome(key: string): void {
    const [rolloutId, deviceId] = partsOfOutcome(key);
    this.#followed.get(rolloutId)?.cohort?.takeOutcome(deviceId);
  }

  #look(deviceId: string): void {
    for (const { cohort } of this.#followed.values()) cohort?.look(deviceId);
  }

  #takeRow(key: string, row: CohortRow | undefined): void {
    const followed = this.#followed.get(rolloutOf(key));
    if (followed?.cohort) followed.cohort.takeRow(key, row);
    else followed?.written.set(key, row);
  }

  #takeRecord(id: string, record: RolloutRecord | undefined): void {
    if (record) this.#records.set(id, record);
    else this.#records.delete(id);
    if (record && isUnderWay(record)) this.#followed.get(id)?.cohort?.takeRecord(record);
    else this.#forget(id);
  }

  async #deletions(prefix: string): Promise<RowWrite[]> {
    const writes: RowWrite[] = [];
    for await (const [key] of this.#database.rows.stored('cohort', { prefix }))
      writes.push({ table: 'cohort', key, value: undefined });
    return writes;
  }
}

function cohortRows({ rolloutId, stage, ids }: NonNullable<CohortChange['frozen']>): RowWrite[] {
  const writes: RowWrite[] = [];
  for (let at = 0; at === 0 || at < ids.length; at += IDS_A_ROW) {
    const key = keyOf(rolloutId, digits(stage, 2), digits(at / IDS_A_ROW, 4));
    writes.push({ table: 'cohort', key, value: { stage, ids: ids.slice(at, at + IDS_A_ROW) } });
  }
  return writes;
}

const rolloutOf = (key: string): string => key.slice(0, key.indexOf('!'));

const digits = (value: number, count: number): string => String(value).padStart(count, '0');
