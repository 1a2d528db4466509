import { SitecastError } from '@sitecast/shared/errors';
import { reportBytes } from '@sitecast/shared/fleet';
import { lruCache, type LruCache, type TokenBucket } from '@sitecast/shared/bounded';
import { envelopeSchema } from '@sitecast/shared/identity';
import { type Change, type KeyValueStore, startingWith } from '@sitecast/shared/key-value';
import pLimit from 'p-limit';
import { z } from 'zod';
import { type Amount, exceeds, type Queued, type Round, type Waiting, ReportTurns } from './report-turns.ts';

/** The bound on waiting reports of one device. An agent writes about ten reports per update. */
export const MAX_DEVICE = { reports: 2000, bytes: 2 * 1024 * 1024 };
/** The bound on waiting reports of all devices together. */
const MAX_ALL = { reports: 200_000, bytes: 256 * 1024 * 1024 };
/** The bound on waiting reports of all senders without a known assignment together: any machine on the LAN can be many of them. */
export const MAX_STRANGERS = { reports: 2000, bytes: 4 * 1024 * 1024 };
/** How many reports that the origin refused are kept for operators to look at. */
export const MAX_DEAD_LETTERS = 1000;
/** How many of these an answer tells a device about. */
export const MAX_TOLD_LETTERS = 100;
/** How many reports that were just sent are remembered: if a device sends one again, it needn't cross the WAN again. */
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
export type QueuedReport = z.infer<typeof entrySchema>;

/** A report that the origin refused, and why. */
const letterSchema = entrySchema.pick({ id: true, epoch: true, seq: true, digest: true }).extend({
  code: z.string(),
});
type Letter = z.infer<typeof letterSchema>;

export interface WaitingReport extends QueuedReport {
  key: string;
  /** Its place among the waiting reports. */
  waiting: Queued;
}

/**
 * Reports on their way to the origin, those of each device in the order in which they came. An added report survives a power cut.
 *
 * Records: `r:ARRIVAL` → the report, `x:ID:EPOCH:SEQ:DIGEST` → its arrival, `d:ARRIVAL` → one that the origin refused.
 * Two different reports under one number are both sent on, so that the origin sees that a device was cloned.
 */
export class ReportQueue {
  readonly #records: KeyValueStore;
  readonly #now: () => number;
  readonly #turn = pLimit(1);
  readonly #queues = new ReportTurns();
  readonly #max: Amount;
  readonly #left: LruCache<string, true>;
  /** The kept refused reports, oldest first; undefined for one that cannot be read any more. */
  readonly #letters = new Map<string, Letter | undefined>();
  #arrivals = 0;
  readonly #listeners: (() => void)[] = [];

  private constructor(records: KeyValueStore, now: () => number, max: Amount) {
    this.#records = records;
    this.#now = now;
    this.#max = max;
    this.#left = lruCache({ max: MAX_REMEMBERED, ttl: REMEMBERED_FOR_MS, now });
  }

  /** @param max of all devices together */
  static async open(records: KeyValueStore, now: () => number, max: Amount = MAX_ALL): Promise<ReportQueue> {
    const queue = new ReportQueue(records, now, max);
    await queue.#putRight();
    for await (const [key, value] of records.entries(startingWith('r:'))) {
      const entry = entrySchema.parse(value);
      queue.#queues.add(waitingOf(entry, numberOf(key)), entry.isKnown);
      queue.#arrivals = numberOf(key) + 1;
    }
    for await (const [key, value] of records.entries(startingWith('d:'))) {
      queue.#letters.set(key, letterSchema.safeParse(value).data);
      queue.#arrivals = Math.max(queue.#arrivals, numberOf(key) + 1);
    }
    return queue;
  }

  /**
   * Repairs the records after damage, which may leave only one of a report's two records. With only the second, the report would count as
   * waiting and never be sent. With only the first, it would never leave.
   */
  async #putRight(): Promise<void> {
    const changes: Change[] = [];
    const keys = new Map<number, string>();
    for await (const [key, value] of this.#records.entries(startingWith('r:'))) {
      const entry = entrySchema.safeParse(value).data;
      if (entry) keys.set(numberOf(key), indexKey(entry));
      else changes.push({ key, value: undefined });
    }
    for await (const [key, arrival] of this.#records.entries(startingWith('x:'))) {
      if (keys.get(Number(arrival)) === key) keys.delete(Number(arrival));
      else changes.push({ key, value: undefined });
    }
    for (const [arrival, key] of keys) changes.push({ key, value: arrival });
    if (changes.length > 0) await this.#records.commit(changes);
  }

  /** Calls the listener when there is something to send. */
  onAdded(listener: () => void): void {
    this.#listeners.push(listener);
  }

  get length(): number {
    return this.#queues.total.reports;
  }
  get bytes(): number {
    return this.#queues.total.bytes;
  }
  get deadLetters(): number {
    return this.#letters.size;
  }

  /** The newest reports of a chain that the origin refused, as far as they are kept. */
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
   * Adds reports of one sender. A report that waits already is not added again. On return they survive a power cut.
   * @param budget what the sender may still send, in bytes; a report that waits already costs nothing
   * @returns the last reports, for which the budget does not suffice: the device keeps them
   * @throws SITECAST_OUTBOX_FULL, SITECAST_NO_SPACE (both noSpace): none is taken, the device keeps them
   */
  async add<T extends QueuedReport>(entries: readonly T[], budget?: TokenBucket): Promise<T[]> {
    const { added, over } = await this.#turn(async () => {
      const sorted = await this.#sort(entries, budget?.tokens ?? Number.POSITIVE_INFINITY);
      const { fresh, amount } = sorted;
      const going = this.#roomFor([...fresh.values()], amount);
      const changes: Change[] = [...(await this.#removalsOf(going))];
      const added: { waiting: Waiting; isKnown: boolean }[] = [];
      for (const [key, entry] of fresh) {
        const waiting = waitingOf(entry, this.#arrivals + added.length);
        changes.push(
          { key: arrivalKey('r', waiting.arrival), value: entry },
          { key, value: waiting.arrival },
        );
        added.push({ waiting, isKnown: entry.isKnown });
      }
      if (changes.length > 0) await this.#records.commit(changes);
      budget?.take(amount.bytes);
      this.#arrivals += added.length;
      for (const waiting of going) this.#queues.remove(waiting);
      for (const { waiting, isKnown } of added) this.#queues.add(waiting, isKnown);
      return { added: added.length, over: sorted.over };
    });
    if (added > 0) for (const listener of this.#listeners) listener();
    return over;
  }

  /** Divides the new reports into those that fit the budget and those that don't, in order. */
  async #sort<T extends QueuedReport>(entries: readonly T[], mostBytes: number) {
    const fresh = new Map<string, QueuedReport>();
    const over: T[] = [];
    const amount = { reports: 0, bytes: 0 };
    for (const entry of entries) {
      const key = indexKey(entry);
      if (this.#left.has(key) || fresh.has(key) || (await this.#records.get(key)) !== undefined) continue;
      const bytes = reportBytes(entry.envelope);
      if (over.length > 0 || amount.bytes + bytes > mostBytes) {
        over.push(entry);
        continue;
      }
      fresh.set(key, entrySchema.parse(entry));
      amount.reports += 1;
      amount.bytes += bytes;
    }
    return { fresh, over, amount };
  }

  round(): Round {
    return this.#queues.round();
  }

  /**
   * The next reports of a round: one of each device in turn.
   * @param isHeld whether a device's reports are held back now
   */
  async next(
    round: Round,
    max: { maxReports: number; maxBytes: number },
    isHeld?: (id: string) => boolean,
  ): Promise<WaitingReport[]> {
    for (let items = round.next(max, isHeld); items.length > 0; items = round.next(max, isHeld)) {
      const found: WaitingReport[] = [];
      for (const waiting of items) {
        const key = arrivalKey('r', waiting.arrival);
        const { data: entry } = entrySchema.safeParse(await this.#records.get(key));
        if (entry) found.push({ ...entry, key, waiting });
        // It has been sent meanwhile, or is damaged: it leaves the queue.
        else this.#queues.remove(waiting);
      }
      if (found.length > 0) return found;
    }
    return [];
  }

  /** Called when the origin has every report of this chain up to `seq`. @returns how many were waiting */
  async acknowledge({ id, epoch, seq }: { id: string; epoch: string; seq: number }): Promise<number> {
    return this.#turn(async () => {
      // Later reports of the chain have left, but a device that sends them again says that the origin has lost them.
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

  /** Called when the origin refuses this report for good: it is moved to the refused ones. */
  async reject({ key }: { key: string }, code: string): Promise<void> {
    await this.#turn(async () => {
      const entry = entrySchema.safeParse(await this.#records.get(key));
      if (!entry.success) return;
      // Refused reports of unknown senders aren't kept, as they would displace those that matter.
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

  async #take(keys: readonly string[], more: Change[] = []): Promise<void> {
    const changes: Change[] = [...more];
    const taken: [arrival: number, entry: QueuedReport][] = [];
    for (const key of keys) {
      const entry = entrySchema.safeParse(await this.#records.get(key));
      if (!entry.success) continue;
      taken.push([numberOf(key), entry.data]);
      changes.push({ key, value: undefined }, { key: indexKey(entry.data), value: undefined });
    }
    if (changes.length > 0) await this.#records.commit(changes);
    for (const [arrival, entry] of taken) {
      this.#queues.remove({ arrival, id: entry.id });
      this.#left.set(indexKey(entry), true);
    }
  }

  async #dropOldLetters(): Promise<void> {
    const excess = this.#letters.size - MAX_DEAD_LETTERS;
    if (excess <= 0) return;
    const keys = [...this.#letters.keys()].slice(0, excess);
    await this.#records.commit(
      keys.map(key => ({ key, value: undefined })),
      { isDurable: false },
    );
    for (const key of keys) this.#letters.delete(key);
  }

  /**
   * Makes room for new reports. No device is refused because of what others have waiting.
   * @returns the reports that make room
   * @throws SITECAST_OUTBOX_FULL
   */
  #roomFor([first]: readonly QueuedReport[], more: Amount): Waiting[] {
    if (!first) return [];
    if (!first.isKnown) return this.#queues.excessOfStrangers(more, MAX_STRANGERS);
    const { reports, bytes } = this.#queues.of(first.id);
    if (exceeds({ reports: reports + more.reports, bytes: bytes + more.bytes }, MAX_DEVICE))
      throw full('as many reports of this device wait here as it may have');
    const going = this.#queues.roomFor(first.id, more, this.#max);
    if (!going)
      throw full('the reports that wait here are as many as it can hold, and no device has more of them');
    return going;
  }

  async #removalsOf(going: readonly Waiting[]): Promise<Change[]> {
    const changes: Change[] = [];
    for (const { arrival } of going) {
      const key = arrivalKey('r', arrival);
      const { data: entry } = entrySchema.safeParse(await this.#records.get(key));
      changes.push({ key, value: undefined });
      if (entry) changes.push({ key: indexKey(entry), value: undefined });
    }
    return changes;
  }
}

function waitingOf({ id, envelope }: QueuedReport, arrival: number): Waiting {
  return { arrival, id, bytes: reportBytes(envelope) };
}

function indexKey({ id, epoch, seq, digest }: QueuedReport): string {
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
