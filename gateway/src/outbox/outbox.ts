import { SitecastError } from '@sitecast/shared/errors';
import { type Envelope, envelopeSchema } from '@sitecast/shared/identity';
import { startingWith } from '@sitecast/shared/key-value';
import { LRUCache } from 'lru-cache';
import pLimit from 'p-limit';
import { z } from 'zod';
import type { RecordChange, Records } from '../storage/records.ts';

/** What one device may have waiting. An agent writes some ten reports an update. */
export const MAX_DEVICE_REPORTS = 2000;
const MAX_DEVICE_BYTES = 2 * 1024 * 1024;
/** What all devices together may have waiting. */
const MAX_OUTBOX_REPORTS = 200_000;
const MAX_OUTBOX_BYTES = 256 * 1024 * 1024;
/** What all senders together may that this gateway knows no assignment of: anybody on the LAN can be many of them. */
export const MAX_STRANGERS_REPORTS = 2000;
const MAX_STRANGERS_BYTES = 4 * 1024 * 1024;
/** Reports that the origin refused, kept for whoever looks into it. */
export const MAX_DEAD_LETTERS = 1000;
/** Of those, what a device is told of its own in one answer. */
export const MAX_TOLD_LETTERS = 100;
/** Reports that have just left: a device that sends them again needn't cross the WAN. */
const MAX_REMEMBERED = 20_000;
const REMEMBERED_FOR_MS = 10 * 60_000;

/** A report that waits. */
const entrySchema = z.object({
  id: z.string(),
  epoch: z.string(),
  seq: z.number(),
  /** The first 16 hexadecimal digits of the SHA-256 of its payload. */
  digest: z.string(),
  isKnown: z.boolean(),
  envelope: envelopeSchema,
});
export type OutboxEntry = z.infer<typeof entrySchema>;

/** A report that the origin refused, and why. */
const letterSchema = entrySchema.pick({ id: true, epoch: true, seq: true, digest: true }).extend({
  code: z.string(),
});
type Letter = z.infer<typeof letterSchema>;

export interface WaitingReport extends OutboxEntry {
  /** Its place in the queue. */
  key: string;
}

/** How much waits, of one device or of all. */
class Tally {
  reports = 0;
  bytes = 0;

  add(reports: number, bytes: number): void {
    this.reports += reports;
    this.bytes += bytes;
  }
}

/**
 * Reports on their way to the origin, in the order in which they came; what was added survives a power cut.
 *
 * Records: `r:ARRIVAL` → the report, `x:ID:EPOCH:SEQ:DIGEST` → its arrival, `d:ARRIVAL` → one that the origin refused.
 * Two different reports under one number are both sent on: it's the origin that is to see that a device was cloned.
 */
export class Outbox {
  readonly #records: Records;
  readonly #now: () => number;
  readonly #turn = pLimit(1);
  readonly #total = new Tally();
  readonly #strangers = new Tally();
  readonly #devices = new Map<string, Tally>();
  readonly #left: LRUCache<string, true>;
  /** Those that are kept, oldest first; undefined for one that can't be read any more. */
  readonly #letters = new Map<string, Letter | undefined>();
  #arrivals = 0;
  /** Called when there's something to send. */
  onAdded: () => void = () => undefined;

  private constructor(records: Records, now: () => number) {
    this.#records = records;
    this.#now = now;
    this.#left = new LRUCache({ max: MAX_REMEMBERED, ttl: REMEMBERED_FOR_MS, perf: { now } });
  }

  static async open(records: Records, now: () => number): Promise<Outbox> {
    const outbox = new Outbox(records, now);
    await outbox.#putRight();
    for await (const [key, value] of records.entries(startingWith('r:'))) {
      const entry = entrySchema.parse(value);
      outbox.#count(entry, 1);
      outbox.#arrivals = numberOf(key) + 1;
    }
    for await (const [key, value] of records.entries(startingWith('d:'))) {
      outbox.#letters.set(key, letterSchema.safeParse(value).data);
      outbox.#arrivals = Math.max(outbox.#arrivals, numberOf(key) + 1);
    }
    return outbox;
  }

  /**
   * A database that was damaged may have one of a report's two records. With the second alone the report would count as waiting, and never
   * be sent; with the first alone it would never leave.
   */
  async #putRight(): Promise<void> {
    const changes: RecordChange[] = [];
    const keys = new Map<number, string>();
    for await (const [key, value] of this.#records.entries(startingWith('r:'))) {
      const entry = entrySchema.safeParse(value).data;
      if (entry) keys.set(numberOf(key), indexKey(entry));
      else changes.push({ key, remove: true });
    }
    for await (const [key, arrival] of this.#records.entries(startingWith('x:'))) {
      if (keys.get(Number(arrival)) === key) keys.delete(Number(arrival));
      else changes.push({ key, remove: true });
    }
    for (const [arrival, key] of keys) changes.push({ key, value: arrival });
    if (changes.length > 0) await this.#records.write(changes, true);
  }

  get length(): number {
    return this.#total.reports;
  }
  get bytes(): number {
    return this.#total.bytes;
  }
  get deadLetters(): number {
    return this.#letters.size;
  }

  /** What the origin refused of a chain, as far as that is kept: the newest. */
  refusedOf(id: string, epoch: string): Omit<Letter, 'id'>[] {
    const found: Omit<Letter, 'id'>[] = [];
    for (const letter of this.#letters.values()) {
      if (letter?.id !== id || letter.epoch !== epoch) continue;
      const { seq, digest, code } = letter;
      found.push({ epoch, seq, digest, code });
    }
    return found.slice(-MAX_TOLD_LETTERS);
  }

  /**
   * Takes reports in, all or none; those that wait already count once. When it returns they survive a power cut.
   * @throws SITECAST_OUTBOX_FULL, SITECAST_NO_SPACE (both noSpace): the device keeps them
   */
  async add(entries: readonly OutboxEntry[]): Promise<void> {
    const added = await this.#turn(async () => {
      const fresh = new Map<string, OutboxEntry>();
      for (const entry of entries) {
        const key = indexKey(entry);
        if (this.#left.has(key) || (await this.#records.get(key)) !== undefined) continue;
        fresh.set(key, entry);
      }
      this.#checkRoom([...fresh.values()]);
      const changes: RecordChange[] = [];
      let arrival = this.#arrivals;
      for (const [key, entry] of fresh) {
        changes.push({ key: arrivalKey('r', arrival), value: entry }, { key, value: arrival });
        arrival += 1;
      }
      if (changes.length > 0) await this.#records.write(changes, true);
      this.#arrivals = arrival;
      for (const entry of fresh.values()) this.#count(entry, 1);
      return fresh.size;
    });
    if (added > 0) this.onAdded();
  }

  /** The next ones behind a place in the queue, or from its head. */
  async next(
    after: string | undefined,
    { maxReports, maxBytes }: { maxReports: number; maxBytes: number },
  ): Promise<WaitingReport[]> {
    const found: WaitingReport[] = [];
    let bytes = 0;
    const range = { ...startingWith('r:'), ...(after ? { from: `${after}\u0000` } : {}) };
    for await (const [key, value] of this.#records.entries(range)) {
      const { data: entry } = entrySchema.safeParse(value);
      if (!entry) continue;
      bytes += bytesOf(entry.envelope);
      if (found.length === maxReports || (found.length > 0 && bytes > maxBytes)) break;
      found.push({ ...entry, key });
    }
    return found;
  }

  /** The origin has every report of this chain up to `seq`. @returns how many were waiting */
  async acknowledge({ id, epoch, seq }: { id: string; epoch: string; seq: number }): Promise<number> {
    return this.#turn(async () => {
      // What lies beyond has left once, and is lost at the origin if the device sends it again.
      for (const key of this.#left.keys()) {
        if (key.startsWith(`x:${id}:${epoch}:`) && key > `x:${id}:${epoch}:${padded(seq)}:\u{10ffff}`)
          this.#left.delete(key);
      }
      const from = `x:${id}:${epoch}:`;
      const keys: string[] = [];
      const below = `${from}${padded(seq)}:\u{10ffff}`;
      for await (const [, arrival] of this.#records.entries({ from, below }))
        keys.push(arrivalKey('r', Number(arrival)));
      await this.#take(keys);
      return keys.length;
    });
  }

  /** The origin doesn't want this report, ever: it's put aside. */
  async reject({ key }: { key: string }, code: string): Promise<void> {
    await this.#turn(async () => {
      const entry = entrySchema.safeParse(await this.#records.get(key));
      if (!entry.success) return;
      // What strangers send would push out the letters that matter.
      if (!entry.data.isKnown) {
        await this.#take([key]);
        return;
      }
      const letter = { ...entry.data, code, atMs: this.#now() };
      const letterKey = arrivalKey('d', numberOf(key));
      await this.#take([key], [{ key: letterKey, value: letter }]);
      this.#letters.set(letterKey, letterSchema.parse(letter));
      await this.#dropOldLetters();
    });
  }

  async #take(keys: readonly string[], more: RecordChange[] = []): Promise<void> {
    const changes: RecordChange[] = [...more];
    const taken: OutboxEntry[] = [];
    for (const key of keys) {
      const entry = entrySchema.safeParse(await this.#records.get(key));
      if (!entry.success) continue;
      taken.push(entry.data);
      changes.push({ key, remove: true }, { key: indexKey(entry.data), remove: true });
    }
    if (changes.length > 0) await this.#records.write(changes, true);
    for (const entry of taken) {
      this.#count(entry, -1);
      this.#left.set(indexKey(entry), true);
    }
  }

  async #dropOldLetters(): Promise<void> {
    const excess = this.#letters.size - MAX_DEAD_LETTERS;
    if (excess <= 0) return;
    const keys = [...this.#letters.keys()].slice(0, excess);
    await this.#records.write(
      keys.map(key => ({ key, remove: true as const })),
      false,
    );
    for (const key of keys) this.#letters.delete(key);
  }

  #checkRoom(fresh: readonly OutboxEntry[]): void {
    const total = tallyOf(fresh);
    const strangers = tallyOf(fresh.filter(({ isKnown }) => !isKnown));
    const isFull =
      exceeds(this.#total, total, MAX_OUTBOX_REPORTS, MAX_OUTBOX_BYTES) ||
      (strangers.reports > 0 &&
        exceeds(this.#strangers, strangers, MAX_STRANGERS_REPORTS, MAX_STRANGERS_BYTES));
    if (isFull) throw full('the reports that wait here are as many as it can hold');
    for (const id of new Set(fresh.map(entry => entry.id))) {
      const own = tallyOf(fresh.filter(entry => entry.id === id));
      if (exceeds(this.#devices.get(id), own, MAX_DEVICE_REPORTS, MAX_DEVICE_BYTES))
        throw full('as many reports of this device wait here as it may have');
    }
  }

  #count(entry: OutboxEntry, sign: 1 | -1): void {
    const bytes = sign * bytesOf(entry.envelope);
    this.#total.add(sign, bytes);
    if (!entry.isKnown) this.#strangers.add(sign, bytes);
    const own = this.#devices.get(entry.id) ?? new Tally();
    own.add(sign, bytes);
    if (own.reports > 0) this.#devices.set(entry.id, own);
    else this.#devices.delete(entry.id);
  }
}

function exceeds(held: Tally | undefined, more: Tally, maxReports: number, maxBytes: number): boolean {
  return (held?.reports ?? 0) + more.reports > maxReports || (held?.bytes ?? 0) + more.bytes > maxBytes;
}

function tallyOf(entries: readonly OutboxEntry[]): Tally {
  const tally = new Tally();
  for (const { envelope } of entries) tally.add(1, bytesOf(envelope));
  return tally;
}

/** What a report weighs, about. */
function bytesOf({ payload, signatures }: Envelope): number {
  return payload.length + 200 * signatures.length;
}

function indexKey({ id, epoch, seq, digest }: OutboxEntry): string {
  return `x:${id}:${epoch}:${padded(seq)}:${digest}`;
}

function arrivalKey(kind: 'r' | 'd', arrival: number): string {
  return `${kind}:${padded(arrival)}`;
}

function padded(value: number): string {
  return String(value).padStart(16, '0');
}

function numberOf(key: string): number {
  return Number(key.slice(2));
}

function full(why: string): SitecastError {
  return new SitecastError('noSpace', 'SITECAST_OUTBOX_FULL', why, {
    hint: 'Keep the reports, and try again when the gateway has reached the origin.',
  });
}
