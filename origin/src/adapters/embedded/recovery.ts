import type { AuditEvent } from '../../audit/audit.ts';
import type { LostRevocations, RevocationStore } from '../../recovery/revocations.ts';
import type { EmbeddedDatabase } from './database.ts';
import { ROW_SCHEMAS } from './rows.ts';
import { type Table, TABLES, type TableStore, type Write } from './tables.ts';

/** Deletions of one commit. */
const REMOVED_AT_ONCE = 1000;

/** Deletes rows that no origin could read, and that would keep it from starting. @returns how many, by table */
export async function removeUnreadable(tables: TableStore): Promise<Partial<Record<Table, number>>> {
  const counts: Partial<Record<Table, number>> = {};
  for (const table of TABLES) {
    let writes: Write[] = [];
    for await (const [key, value] of tables.entries(table)) {
      if (ROW_SCHEMAS[table].safeParse(value).success) continue;
      counts[table] = (counts[table] ?? 0) + 1;
      writes.push({ table, key, value: undefined });
      if (writes.length < REMOVED_AT_ONCE) continue;
      await tables.commit(writes);
      writes = [];
    }
    if (writes.length > 0) await tables.commit(writes);
  }
  return counts;
}

/** Revocations in the origin's database. */
export class EmbeddedRevocations implements RevocationStore {
  readonly #database: EmbeddedDatabase;

  constructor(database: EmbeddedDatabase) {
    this.#database = database;
  }

  revokeAgain({ members, tokens, joinTokens }: LostRevocations, event: AuditEvent): Promise<void> {
    return this.#database.transact(transaction => {
      for (const member of members) transaction.write({ table: 'member', key: member.id, value: member });
      for (const key of tokens) transaction.write({ table: 'token', key, value: undefined });
      for (const key of joinTokens) transaction.write({ table: 'joinToken', key, value: undefined });
      transaction.record(event);
    });
  }
}
