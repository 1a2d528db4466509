import { type AuditEntry, auditEntrySchema } from '@sitecast/shared/audit';
import { SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';
import {
  joinTokenSchema,
  type StoredJoinToken,
  type StoredReport,
  storedReportSchema,
} from '../../fleet/fleet-store.ts';
import { type Member, memberSchema } from '../../fleet/member.ts';
import { type Outcome, outcomeSchema } from '../../fleet/outcome.ts';
import { type Status, statusSchema } from '../../fleet/status.ts';
import type { Range, Table, TableStore } from './tables.ts';
import { type RolloutRecord, rolloutRecordSchema } from '../../rollouts/record.ts';
import { type CohortRow, cohortRowSchema } from '../../rollouts/cohort-store.ts';
import { type StoredToken, storedTokenSchema } from '../../tokens/token-store.ts';

/** What each table holds. */
interface RowTypes {
  /** By the member's id. */
  member: Member;
  status: Status;
  inventory: Record<string, unknown>;
  /** By the device's id, the chain's epoch and the report's number. */
  report: StoredReport;
  /** By the rollout's id and the device's. */
  outcome: Outcome;
  joinToken: StoredJoinToken;
  token: StoredToken;
  rollout: RolloutRecord;
  /** By the rollout's id, the stage, and the number of the row. */
  cohort: CohortRow;
  /** Milliseconds since 1970, by the member's id. */
  seen: number;
  /** Gateways that report which devices they hear. */
  presence: true;
  /** By the entry's number. */
  audit: AuditEntry;
}
export type Row<T extends Table> = RowTypes[T];

export const ROW_SCHEMAS: { readonly [T in Table]: z.ZodType<RowTypes[T]> } = {
  member: memberSchema,
  status: statusSchema,
  inventory: z.record(z.string(), z.unknown()),
  report: storedReportSchema,
  outcome: outcomeSchema,
  joinToken: joinTokenSchema,
  token: storedTokenSchema,
  rollout: rolloutRecordSchema,
  cohort: cohortRowSchema,
  seen: z.number(),
  presence: z.literal(true),
  audit: auditEntrySchema,
};

/** One change of a row; undefined deletes it. */
export type RowWrite = { [T in Table]: { table: T; key: string; value: Row<T> | undefined } }[Table];

/** Rows as they are read from the tables: of the form that they must have. */
export class Rows {
  readonly #tables: TableStore;

  constructor(tables: TableStore) {
    this.#tables = tables;
  }

  /** @throws SITECAST_STATE_DAMAGED (failed) */
  async get<T extends Table>(table: T, key: string): Promise<Row<T> | undefined> {
    const value = await this.#tables.get(table, key);
    return value === undefined ? undefined : readRow(table, key, value);
  }

  /** Undefined for a row that isn't there, and for one that can't be read any more. */
  async getReadable<T extends Table>(table: T, key: string): Promise<Row<T> | undefined> {
    try {
      return await this.get(table, key);
    } catch (error) {
      if (error instanceof SitecastError && error.code === 'SITECAST_STATE_DAMAGED') return undefined;
      throw error;
    }
  }

  /** In the order of keys. @throws SITECAST_STATE_DAMAGED (failed) */
  async *entries<T extends Table>(table: T, range?: Range): AsyncGenerator<[key: string, row: Row<T>]> {
    for await (const [key, value] of this.#tables.entries(table, range))
      yield [key, readRow(table, key, value)];
  }

  /** As they are stored, whatever their form. */
  stored(table: Table, range?: Range): AsyncIterable<[key: string, value: unknown]> {
    return this.#tables.entries(table, range);
  }
}

/** @throws SITECAST_STATE_DAMAGED (failed) */
function readRow<T extends Table>(table: T, key: string, value: unknown): Row<T> {
  const parsed = ROW_SCHEMAS[table].safeParse(value);
  if (parsed.success) return parsed.data;
  throw new SitecastError(
    'failed',
    'SITECAST_STATE_DAMAGED',
    `the database holds something unreadable at ${table}!${key}`,
    {
      hint: 'Look for a failing disk. Bring the whole data directory back from a backup, or run `sitecast-origin recover`.',
      cause: parsed.error,
    },
  );
}
