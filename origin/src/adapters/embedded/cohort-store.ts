import type { Outcome } from '../../fleet/outcome.ts';
import {
  type CohortChange,
  type CohortRow,
  type CohortStore,
  IDS_A_ROW,
} from '../../rollouts/cohort-store.ts';
import type { RolloutRecord } from '../../rollouts/record.ts';
import type { EmbeddedDatabase } from './database.ts';
import type { RowWrite } from './rows.ts';
import { keyOf } from './tables.ts';

/** Rollouts' records and cohorts in the origin's database. */
export class EmbeddedCohortStore implements CohortStore {
  readonly #database: EmbeddedDatabase;

  constructor(database: EmbeddedDatabase) {
    this.#database = database;
  }

  async records(): Promise<RolloutRecord[]> {
    const found: RolloutRecord[] = [];
    for await (const [, record] of this.#database.rows.entries('rollout')) found.push(record);
    return found;
  }

  async change({ records = [], forgotten = [], frozen, thawed = [] }: CohortChange): Promise<void> {
    const writes: RowWrite[] = [
      ...records.map(record => ({ table: 'rollout' as const, key: record.rollout.id, value: record })),
      ...forgotten.map(key => ({ table: 'rollout' as const, key, value: undefined })),
      ...(frozen ? cohortRows(frozen) : []),
    ];
    for (const { rolloutId, stage } of thawed) {
      const prefix = stage === undefined ? `${rolloutId}!` : `${keyOf(rolloutId, digits(stage, 2))}!`;
      for await (const [key] of this.#database.rows.stored('cohort', { prefix }))
        writes.push({ table: 'cohort', key, value: undefined });
    }
    await this.#database.transact(transaction => transaction.write(...writes));
  }

  async cohort(rolloutId: string): Promise<CohortRow[]> {
    const rows: CohortRow[] = [];
    const prefix = `${rolloutId}!`;
    for await (const [, row] of this.#database.rows.entries('cohort', { prefix })) rows.push(row);
    return rows;
  }

  async frozenRollouts(): Promise<Set<string>> {
    const ids = new Set<string>();
    for await (const [key] of this.#database.rows.stored('cohort')) ids.add(key.slice(0, key.indexOf('!')));
    return ids;
  }

  async outcomes(rolloutId: string): Promise<Map<string, Outcome>> {
    const found = new Map<string, Outcome>();
    const prefix = `${rolloutId}!`;
    for await (const [key, outcome] of this.#database.rows.entries('outcome', { prefix }))
      found.set(key.slice(prefix.length), outcome);
    return found;
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

const digits = (value: number, count: number): string => String(value).padStart(count, '0');
