import { createHash } from 'node:crypto';
import { type AuditEntry, type AuditHead, EMPTY_HEAD, hashOfEntry } from '@sitecast/shared/audit';
import type { AuditEvent } from '../../audit/audit.ts';
import type { Table, TableStore } from './tables.ts';
import { Rows, type RowWrite } from './rows.ts';

/** Details of one audit entry, as JSON; of longer ones the log keeps their length and hash. */
export const MAX_DETAILS_BYTES = 4 * 1024;
/** Transactions that share one commit at the most, and the number of rows after which no further one joins. */
const MAX_TRANSACTIONS_PER_COMMIT = 500;
const MAX_ROWS_PER_COMMIT = 5000;
const SEQ_DIGITS = 16;

interface Waiting {
  /** @returns resolves the promise of the transaction's caller; called once it is durable */
  decide: (transaction: Transaction) => () => void;
  reject: (error: unknown) => void;
}

/** What the transactions of one commit have written so far. Each sees what those before it have written. */
class Batch {
  readonly rows = new Map<string, RowWrite>();
  readonly events: AuditEvent[] = [];
  readonly index = new Map<string, string | undefined>();
}

/** One transaction: what it has looked at doesn't change before its writes are durable. */
export class Transaction {
  readonly #batch: Batch;
  readonly #own = new Batch();

  constructor(batch: Batch) {
    this.#batch = batch;
  }

  /** The row as this transaction, or one that it shares the commit with, has written it; undefined where none of them has. */
  written(table: Table, key: string): RowWrite | undefined {
    const name = `${table}!${key}`;
    return this.#own.rows.get(name) ?? this.#batch.rows.get(name);
  }

  /** All written rows of one table. */
  *allWritten(table: Table): Generator<RowWrite> {
    for (const rows of [this.#batch.rows, this.#own.rows])
      for (const write of rows.values()) if (write.table === table) yield write;
  }

  write(...writes: readonly RowWrite[]): void {
    for (const write of writes) this.#own.rows.set(`${write.table}!${write.key}`, write);
  }

  /** Adds entries of the audit log, which become durable together with the rows. */
  record(...events: readonly AuditEvent[]): void {
    this.#own.events.push(...events);
  }

  /** Sets an entry of an index that the caller keeps in memory, for the transactions of the same commit. */
  setIndex(name: string, key: string | undefined): void {
    this.#own.index.set(name, key);
  }

  /** Reads such an entry. @param stored the entry by what is durable */
  index(name: string, stored: string | undefined): string | undefined {
    for (const { index } of [this.#own, this.#batch]) if (index.has(name)) return index.get(name);
    return stored;
  }

  /** Adds the transaction to its commit. */
  join(): void {
    for (const [name, write] of this.#own.rows) this.#batch.rows.set(name, write);
    for (const [name, key] of this.#own.index) this.#batch.index.set(name, key);
    this.#batch.events.push(...this.#own.events);
  }
}

/**
 * The origin's database: tables in a key-value store of one process. Everything that several stores write is decided and written here, one
 * transaction after the other, so that what a transaction has looked at is still true when it's durable. Transactions that come while
 * the disk is busy share the next commit. Stores that keep rows in memory are told of each commit before its callers are.
 *
 * The audit log's chain is made here, too: a change and the entry that tells of it are there together, or neither is.
 */
export class EmbeddedDatabase {
  readonly rows: Rows;
  readonly #tables: TableStore;
  readonly #now: () => number;
  #head: AuditHead;
  readonly #followers = new Set<(writes: Iterable<RowWrite>) => void>();
  #waiting: Waiting[] = [];
  #isBusy = false;
  #work: Promise<void> = Promise.resolve();

  private constructor(tables: TableStore, now: () => number, head: AuditHead) {
    this.#tables = tables;
    this.rows = new Rows(tables);
    this.#now = now;
    this.#head = head;
  }

  /** @throws SITECAST_STATE_DAMAGED where the audit log's last entry is unreadable */
  static async open(tables: TableStore, now: () => number): Promise<EmbeddedDatabase> {
    let head = EMPTY_HEAD;
    const last = new Rows(tables).entries('audit', { isReversed: true, limit: 1 });
    for await (const [, { seq, hash }] of last) head = { seq, hash };
    return new EmbeddedDatabase(tables, now, head);
  }

  /** The audit log's last entry that is durable. */
  get auditHead(): AuditHead {
    return this.#head;
  }

  /** Calls with the rows of each commit, once they are durable. */
  onCommit(follower: (writes: Iterable<RowWrite>) => void): void {
    this.#followers.add(follower);
  }

  /**
   * Decides and writes in one step.
   * @param decide called once, when nothing else changes what it looks at; what it throws its caller gets, and nothing is written
   * @returns what `decide` returned, once it is durable
   * @throws what `decide` throws; the store's error: nothing was written then
   */
  transact<T>(decide: (transaction: Transaction) => T): Promise<T> {
    return new Promise((resolve, reject) => {
      const decideThen = (transaction: Transaction): (() => void) => {
        const result = decide(transaction);
        return () => resolve(result);
      };
      this.#waiting.push({ decide: decideThen, reject });
      if (!this.#isBusy) this.#work = this.#commitAll();
    });
  }

  /** Resolves when nothing is being written any more. */
  async idle(): Promise<void> {
    await this.#work;
  }

  async #commitAll(): Promise<void> {
    this.#isBusy = true;
    while (this.#waiting.length > 0) {
      const batch = new Batch();
      const decided: { done: () => void; reject: (error: unknown) => void }[] = [];
      const joining = this.#waiting.splice(0, MAX_TRANSACTIONS_PER_COMMIT);
      while (batch.rows.size < MAX_ROWS_PER_COMMIT) {
        const next = joining.shift();
        if (!next) break;
        try {
          const transaction = new Transaction(batch);
          const done = next.decide(transaction);
          transaction.join();
          decided.push({ done, reject: next.reject });
        } catch (error) {
          next.reject(error);
        }
      }
      this.#waiting.unshift(...joining);
      try {
        await this.#commit(batch);
        for (const { done } of decided) done();
      } catch (error) {
        for (const { reject } of decided) reject(error);
      }
    }
    this.#isBusy = false;
  }

  async #commit({ rows, events }: Batch): Promise<void> {
    if (rows.size + events.length === 0) return;
    const { entries, head } = chained(this.#head, events, new Date(this.#now()).toISOString());
    const audited = entries.map(value => ({ table: 'audit' as const, key: auditKey(value.seq), value }));
    await this.#tables.commit([...audited, ...rows.values()]);
    this.#head = head;
    for (const follower of this.#followers) follower(rows.values());
  }
}

/** The entries that tell of events, each with the hash of the one before. */
function chained(
  { seq, hash }: AuditHead,
  events: readonly AuditEvent[],
  at: string,
): { entries: AuditEntry[]; head: AuditHead } {
  const entries: AuditEntry[] = [];
  for (const { by, action, subject, details } of events) {
    seq += 1;
    const kept = details && boundedDetails(details);
    const entry = { seq, at, by, action, subject, ...(kept && { details: kept }), previous: hash };
    hash = hashOfEntry(entry);
    entries.push({ ...entry, hash });
  }
  return { entries, head: { seq, hash } };
}

/** What JSON makes of them: what is hashed is what will be read. */
function boundedDetails(details: Record<string, unknown>): Record<string, unknown> {
  const text = JSON.stringify(details);
  const lengthBytes = Buffer.byteLength(text);
  if (lengthBytes <= MAX_DETAILS_BYTES) return JSON.parse(text);
  return { omittedBytes: lengthBytes, sha256: createHash('sha256').update(text).digest('hex') };
}

export function auditKey(seq: number): string {
  return String(seq).padStart(SEQ_DIGITS, '0');
}
