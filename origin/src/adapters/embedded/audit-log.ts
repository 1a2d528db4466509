import { type AuditEntry, type AuditFilter, type AuditHead, isWanted } from '@sitecast/shared/audit';
import type { AuditEvent, AuditLog } from '../../audit/audit.ts';
import { auditKey, type EmbeddedDatabase } from './database.ts';

/** Entries that one search looks at. The next search goes on from there. */
export const MAX_SCANNED_ENTRIES = 10_000;

/** The audit log in the origin's database. */
export class EmbeddedAuditLog implements AuditLog {
  readonly #database: EmbeddedDatabase;

  constructor(database: EmbeddedDatabase) {
    this.#database = database;
  }

  get head(): AuditHead {
    return this.#database.auditHead;
  }

  record(...events: readonly AuditEvent[]): Promise<void> {
    return this.#database.transact(transaction => transaction.record(...events));
  }

  async find(
    after: number,
    limit: number,
    filter: AuditFilter = {},
  ): Promise<{ entries: AuditEntry[]; after: number }> {
    const found: AuditEntry[] = [];
    let last = after;
    const range = { after: auditKey(after), limit: MAX_SCANNED_ENTRIES };
    for await (const [, entry] of this.#database.rows.entries('audit', range)) {
      last = entry.seq;
      if (isWanted(entry, filter) && found.push(entry) >= limit) break;
    }
    return { entries: found, after: last };
  }
}
