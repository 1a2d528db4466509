import { createHash } from 'node:crypto';
import {
  type AuditEntry,
  auditEntrySchema,
  type AuditFilter,
  type AuditHead,
  EMPTY_HEAD,
  hashOfEntry,
  isWanted,
} from '@sitecast/shared/audit';
import { readStored } from '../fleet/registry.ts';
import type { FleetStore, Write } from '../fleet/store.ts';
import type { Audit, AuditEvent } from './audit.ts';

/** Details of one entry, as JSON; of longer ones the log keeps their length and hash. */
export const MAX_DETAILS_BYTES = 4 * 1024;
/** Entries that one question looks at: whoever wants more asks again from there. */
export const MAX_SCANNED_ENTRIES = 10_000;
/** Records that one write to the disk takes: of an entry each, seldom two. */
const MAX_RECORDS_PER_COMMIT = 500;
const SEQ_DIGITS = 16;

interface Waiting {
  events: readonly AuditEvent[];
  besides: readonly Write[];
  resolve: () => void;
  reject: (error: unknown) => void;
}

/**
 * Who did what when: entries are only ever added, each with the hash of the one before. Those that come while the
 * disk is busy share the next write; a write is there as a whole or not at all.
 */
export class AuditLog implements Audit {
  readonly #store: FleetStore;
  readonly #now: () => number;
  #head: AuditHead;
  #waiting: Waiting[] = [];
  #isBusy = false;
  #work: Promise<void> = Promise.resolve();

  private constructor(store: FleetStore, now: () => number, head: AuditHead) {
    this.#store = store;
    this.#now = now;
    this.#head = head;
  }

  /** @throws SITECAST_STATE_DAMAGED where the last entry is unreadable */
  static async open(store: FleetStore, now: () => number): Promise<AuditLog> {
    let head = EMPTY_HEAD;
    for await (const [key, value] of store.entries('audit', { isReversed: true, limit: 1 })) {
      const { seq, hash } = readStored('audit', key, auditEntrySchema, value);
      head = { seq, hash };
    }
    return new AuditLog(store, now, head);
  }

  /** The last entry that is durable. */
  get head(): AuditHead {
    return this.#head;
  }

  /** @throws the store's error: nothing was recorded then, and what it tells mustn't be done */
  record(events: AuditEvent | readonly AuditEvent[], besides: readonly Write[] = []): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ events: [events].flat(), besides, resolve, reject });
      if (!this.#isBusy) this.#work = this.#writeAll();
    });
  }

  /**
   * Of the entries after the one with this number those that are wanted, in order. They are handed out as they are stored:
   * whether the chain holds is for the reader to check.
   * @returns the number of the last that was looked at, too: whoever wants more goes on from there
   */
  async find(
    after: number,
    limit: number,
    filter: AuditFilter = {},
  ): Promise<{ entries: AuditEntry[]; after: number }> {
    const found: AuditEntry[] = [];
    let last = after;
    const range = { after: keyOfSeq(after), limit: MAX_SCANNED_ENTRIES };
    for await (const [key, value] of this.#store.entries('audit', range)) {
      const entry = readStored('audit', key, auditEntrySchema, value);
      last = entry.seq;
      if (isWanted(entry, filter) && found.push(entry) >= limit) break;
    }
    return { entries: found, after: last };
  }

  /** Resolves when nothing is being recorded any more. */
  async idle(): Promise<void> {
    await this.#work;
  }

  async #writeAll(): Promise<void> {
    this.#isBusy = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, MAX_RECORDS_PER_COMMIT);
      try {
        await this.#append(batch);
        for (const { resolve } of batch) resolve();
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    this.#isBusy = false;
  }

  async #append(batch: readonly Waiting[]): Promise<void> {
    const at = new Date(this.#now()).toISOString();
    const entries: AuditEntry[] = [];
    let { seq, hash } = this.#head;
    for (const { by, action, subject, details } of batch.flatMap(({ events }) => events)) {
      seq += 1;
      const kept = details && boundedDetails(details);
      const entry = { seq, at, by, action, subject, ...(kept && { details: kept }), previous: hash };
      hash = hashOfEntry(entry);
      entries.push({ ...entry, hash });
    }
    await this.#store.commit([
      ...entries.map(entry => ({ table: 'audit' as const, key: keyOfSeq(entry.seq), value: entry })),
      ...batch.flatMap(({ besides }) => besides),
    ]);
    this.#head = { seq, hash };
  }
}

/** What JSON makes of them: what is hashed is what will be read. */
function boundedDetails(details: Record<string, unknown>): Record<string, unknown> {
  const text = JSON.stringify(details);
  const lengthBytes = Buffer.byteLength(text);
  if (lengthBytes <= MAX_DETAILS_BYTES) return JSON.parse(text);
  return { omittedBytes: lengthBytes, sha256: createHash('sha256').update(text).digest('hex') };
}

function keyOfSeq(seq: number): string {
  return String(seq).padStart(SEQ_DIGITS, '0');
}
