import { randomBytes } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { syncDirectory, writeFileDurably } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import { type Report, sealReport } from '@sitecast/shared/fleet';
import type { Envelope, Identity } from '@sitecast/shared/identity';
import type { PassPoint } from '../ports.ts';
import {
  type Entry,
  forgottenAtMs,
  noteForgotten,
  payloadSha256,
  readEntries,
  readIfThere,
} from './outbox-file.ts';

export const OUTBOX_FILE = 'reports.jsonl';
/** The file grows to this at most, in bytes; what comes then isn't recorded until the origin has acknowledged. */
const MAX_OUTBOX_BYTES = 16 * 1024 * 1024;
/** What is read of one that an earlier version may have written. */
const MAX_FILE_BYTES = MAX_OUTBOX_BYTES + 1024 * 1024;
/** Acknowledged reports that are kept before the file is written anew. */
const MAX_ACKNOWLEDGED = 64;
/** The newest ones stay, acknowledged or not: they tell what has been reported of the update in progress. */
const KEPT_REPORTS = 16;
/** What an envelope holds besides its payload, at most, in bytes. */
const ENVELOPE_BYTES = 512;

/** A report without its place in the chain. */
export type Event = Pick<
  Report,
  'at' | 'timestampVersion' | 'state' | 'rollout' | 'release' | 'booted' | 'reason' | 'inventory'
>;

/** `takenBack`: the origin has lost some, which are to be sent again. */
type Acknowledged = 'ignored' | 'taken' | 'takenBack' | 'newChain';

export interface PendingReport {
  seq: number;
  /** Of its JSON, about. */
  lengthBytes: number;
  envelope: Envelope;
}

/**
 * The device's reports until the origin has acknowledged them: one envelope a line, appended and fsynced before it may
 * be sent. The newest line stays for good: the next report's number and hash follow from it.
 *
 * A line that the power cut short was never sent, so its number is free again. A whole line that doesn't fit the
 * chain may have been: then the chain can't be continued honestly, and a new one, with a new epoch, begins.
 */
export class Outbox {
  readonly #path: string;
  readonly #identity: Identity;
  readonly #passPoint: PassPoint;
  #entries: Entry[];
  #epoch: string;
  #acknowledgedSeq: number;
  /** The origin's clock when it signed the newest acknowledgement of this process, milliseconds. */
  #acknowledgedAtMs = Number.NEGATIVE_INFINITY;
  /** The same of the acknowledgement that the oldest reports were forgotten for. */
  #forgottenAtMs: number;
  #handle: FileHandle;
  #lengthBytes: number;
  readonly #maxBytes: number;
  #isTailSuspect = false;
  /** The handle is that of the file before the last rewriting: nothing that goes there is kept. */
  #isReplaced = false;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(init: {
    path: string;
    identity: Identity;
    passPoint: PassPoint;
    entries: Entry[];
    handle: FileHandle;
    lengthBytes: number;
    maxBytes: number;
    forgottenAtMs: number;
  }) {
    this.#path = init.path;
    this.#forgottenAtMs = init.forgottenAtMs;
    this.#identity = init.identity;
    this.#passPoint = init.passPoint;
    this.#entries = init.entries;
    this.#handle = init.handle;
    this.#lengthBytes = init.lengthBytes;
    this.#maxBytes = init.maxBytes;
    this.#epoch = init.entries.at(-1)?.report.epoch ?? newEpoch();
    this.#acknowledgedSeq = (init.entries[0]?.report.seq ?? 1) - 1;
  }

  static async open(
    directory: string,
    identity: Identity,
    passPoint: PassPoint,
    maxBytes = MAX_OUTBOX_BYTES,
  ): Promise<Outbox> {
    const path = join(directory, OUTBOX_FILE);
    const { entries, lengthBytes, isDamaged } = readEntries(
      await readIfThere(path, MAX_FILE_BYTES),
      identity.id,
    );
    if (isDamaged) await writeFileDurably(`${path}.damaged`, await readIfThere(path, MAX_FILE_BYTES), 0o600);
    const handle = await open(path, 'a', 0o600);
    try {
      await handle.truncate(isDamaged ? 0 : lengthBytes);
      await handle.sync();
      await syncDirectory(directory);
    } catch (error) {
      await handle.close();
      throw error;
    }
    const outbox = new Outbox({
      path,
      identity,
      passPoint,
      entries: isDamaged ? [] : entries,
      handle,
      lengthBytes: isDamaged ? 0 : lengthBytes,
      maxBytes,
      forgottenAtMs: await forgottenAtMs(directory, entries[0]),
    });
    // What could still be read is said again, in the new chain.
    if (isDamaged) for (const { report } of entries) await outbox.append(eventOf(report));
    return outbox;
  }

  get epoch(): string {
    return this.#epoch;
  }

  /** The newest report; undefined before the first. */
  get newest(): Report | undefined {
    return this.#entries.at(-1)?.report;
  }

  /** The newest reports, oldest first: at least the last 16. */
  recent(): Report[] {
    return this.#entries.map(({ report }) => report);
  }

  /** Those that the origin hasn't acknowledged, oldest first. */
  pending(): PendingReport[] {
    return this.#entries
      .filter(({ report }) => report.seq > this.#acknowledgedSeq)
      .map(({ report, envelope }) => ({
        seq: report.seq,
        lengthBytes: envelope.payload.length + ENVELOPE_BYTES,
        envelope,
      }));
  }

  get pendingCount(): number {
    return (this.newest?.seq ?? 0) - this.#acknowledgedSeq;
  }

  /**
   * Durable, and in the chain, once it returns.
   * @throws SITECAST_OUTBOX_FULL; the system's error (ENOSPC …): then it isn't recorded, and may be tried again
   */
  append(event: Event): Promise<Report> {
    return this.#inTurn(() => this.#append(event));
  }

  /**
   * Takes the origin's word, signed at `atMs` by its clock. One of another epoch is ignored. One beyond the newest report
   * says that this directory is older than what was sent from it (restored from a backup): the chain goes on as a new one.
   * A newer word that knows less than an older one did says the same of the origin: what is still here is sent again;
   * where that no longer reaches back far enough, a new chain begins. (An older word is just late, or replayed.)
   */
  acknowledge(epoch: string, seq: number, atMs: number): Promise<Acknowledged> {
    return this.#inTurn(async () => {
      if (epoch !== this.#epoch) return 'ignored';
      if (this.#isOffThisChain(seq, atMs)) {
        await this.#beginAnew();
        return 'newChain';
      }
      const isLoss =
        seq < this.#acknowledgedSeq && seq >= this.#oldestSeq - 1 && atMs > this.#acknowledgedAtMs;
      if (!isLoss && seq <= this.#acknowledgedSeq) return 'ignored';
      this.#acknowledgedSeq = seq;
      this.#acknowledgedAtMs = atMs;
      if (isLoss) return 'takenBack';
      const count = this.#entries.filter(({ report }) => report.seq <= seq).length;
      if (count > MAX_ACKNOWLEDGED) await this.#forget(count - KEPT_REPORTS, atMs);
      return 'taken';
    });
  }

  /** Is the end that the origin knows none that this file can go on from? */
  #isOffThisChain(seq: number, atMs: number): boolean {
    return seq > (this.newest?.seq ?? 0) || (seq < this.#oldestSeq - 1 && atMs > this.#forgottenAtMs);
  }

  get #oldestSeq(): number {
    return this.#entries[0]?.report.seq ?? 1;
  }

  async close(): Promise<void> {
    await this.#turn;
    await this.#handle.close();
  }

  async #append(event: Event): Promise<Report> {
    const last = this.#entries.at(-1);
    const report: Report = {
      ...event,
      format: 'sitecast-report-1',
      id: this.#identity.id,
      epoch: this.#epoch,
      seq: (last?.report.seq ?? 0) + 1,
      previous: last?.payloadSha256 ?? null,
    };
    const envelope = await sealReport(report, this.#identity);
    const line = Buffer.from(`${JSON.stringify(envelope)}\n`);
    if (this.#lengthBytes + line.length > this.#maxBytes)
      throw new SitecastError('noSpace', 'SITECAST_OUTBOX_FULL', 'no more reports can be kept', {
        hint: 'they are waiting for the origin to acknowledge them',
      });
    this.#passPoint('report before');
    await this.#appendLine(line);
    this.#entries.push({ report, envelope, payloadSha256: payloadSha256(envelope) });
    this.#passPoint('report after');
    return report;
  }

  async #appendLine(line: Buffer): Promise<void> {
    if (this.#isReplaced) await this.#reopen();
    // After a failed write or fsync nobody knows what the file holds behind its good part.
    if (this.#isTailSuspect) await this.#handle.truncate(this.#lengthBytes);
    this.#isTailSuspect = true;
    await this.#handle.appendFile(line);
    await this.#handle.sync();
    this.#isTailSuspect = false;
    this.#lengthBytes += line.length;
  }

  async #forget(count: number, atMs: number): Promise<void> {
    await noteForgotten(dirname(this.#path), this.#epoch, atMs);
    this.#forgottenAtMs = atMs;
    await this.#rewrite(this.#entries.slice(count));
  }

  async #rewrite(entries: Entry[]): Promise<void> {
    const bytes = Buffer.from(entries.map(({ envelope }) => `${JSON.stringify(envelope)}\n`).join(''));
    this.#passPoint('outbox before');
    await writeFileDurably(this.#path, bytes, 0o600);
    this.#lengthBytes = bytes.length;
    this.#isTailSuspect = false;
    this.#entries = entries;
    this.#isReplaced = true;
    this.#passPoint('outbox after');
    await this.#reopen();
  }

  async #reopen(): Promise<void> {
    const handle = await open(this.#path, 'a');
    await this.#handle.close();
    this.#handle = handle;
    this.#isReplaced = false;
  }

  async #beginAnew(): Promise<void> {
    const events = this.#entries.slice(-1).map(({ report }) => eventOf(report));
    await this.#rewrite([]);
    this.#epoch = newEpoch();
    this.#acknowledgedSeq = 0;
    this.#acknowledgedAtMs = Number.NEGATIVE_INFINITY;
    this.#forgottenAtMs = Number.POSITIVE_INFINITY;
    for (const event of events) await this.#append(event);
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {
      // The caller of `work` has got the error.
    });
    return done;
  }
}

const newEpoch = (): string => randomBytes(8).toString('hex');

function eventOf(report: Report): Event {
  const { at, timestampVersion, state, rollout, release, booted, reason, inventory } = report;
  return { at, timestampVersion, state, rollout, release, booted, reason, inventory };
}
