import { randomBytes } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { syncDirectory } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { isPlainEvent, plainEvent, type Report, type ReportEvent, TOLD_AGAIN } from '@sitecast/shared/fleet';
import type { Envelope, Identity } from '@sitecast/shared/identity';
import { type DurableFiles, durableFiles } from '../state/durable-files.ts';
import {
  type Entry,
  eventOf,
  FILE_NAME,
  findReports,
  forgottenAtMs,
  keepUnreadable,
  linesOf,
  noteForgotten,
  sealChain,
  sealEntry,
  settlePutAside,
  type TellAgain,
} from './outbox-file.ts';

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

export type Event = ReportEvent;

/** `takenBack`: the origin has lost some, which are to be sent again. */
type Acknowledged = 'ignored' | 'taken' | 'takenBack' | 'newChain';

export interface PendingReport {
  seq: number;
  payloadSha256: string;
  /** Of its JSON, about. */
  lengthBytes: number;
  envelope: Envelope;
}

/**
 * The device's reports until the origin has acknowledged them: one envelope a line, appended and fsynced before it may
 * be sent. The newest line stays for good: the next report's number and hash follow from it.
 *
 * A line that the power cut short was never sent, so its number is free again. A whole line that doesn't fit the
 * chain may have been: then the chain can't be continued honestly, and a new one, with a new epoch, begins. So it does
 * where the file holds a report that no reader takes. What this device has signed is told again in the new chain.
 */
export class Outbox {
  /** What was found that couldn't go on as it was; undefined for a right chain. */
  readonly foundWrong: TellAgain | undefined;
  readonly #path: string;
  readonly #identity: Identity;
  readonly #files: DurableFiles;
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
  /** To be told in a new chain before anything else. Until that is done the file stays as it was found, and nothing of it is sent. */
  #due: TellAgain | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(init: {
    path: string;
    identity: Identity;
    files: DurableFiles;
    entries: Entry[];
    handle: FileHandle;
    lengthBytes: number;
    maxBytes: number;
    forgottenAtMs: number;
    due: TellAgain | undefined;
  }) {
    this.#path = init.path;
    this.#forgottenAtMs = init.forgottenAtMs;
    this.#identity = init.identity;
    this.#files = init.files;
    this.#entries = init.entries;
    this.#handle = init.handle;
    this.#lengthBytes = init.lengthBytes;
    this.#maxBytes = init.maxBytes;
    this.foundWrong = init.due;
    this.#due = init.due;
    this.#epoch = init.entries.at(-1)?.report.epoch ?? newEpoch();
    this.#acknowledgedSeq = (init.entries[0]?.report.seq ?? 1) - 1;
  }

  static async open(
    directory: string,
    identity: Identity,
    files = durableFiles,
    maxBytes = MAX_OUTBOX_BYTES,
  ): Promise<Outbox> {
    const path = join(directory, FILE_NAME);
    const { entries, lengthBytes, toTellAgain } = await findReports(directory, identity.id, MAX_FILE_BYTES);
    const handle = await files.openToAppend(path);
    try {
      if (!toTellAgain) await handle.truncate(lengthBytes);
      await handle.sync();
      await syncDirectory(directory);
    } catch (error) {
      await handle.close();
      throw error;
    }
    const outbox = new Outbox({
      path,
      identity,
      files,
      entries,
      handle,
      lengthBytes,
      maxBytes,
      forgottenAtMs: await forgottenAtMs(directory, entries[0]),
      due: toTellAgain,
    });
    try {
      await outbox.settle();
    } catch (error) {
      // A full disk: what was found stays where it is, and this is tried again before anything else is told.
      if (isSystemError(error)) return outbox;
      await outbox.close();
      throw error;
    }
    return outbox;
  }

  get epoch(): string {
    return this.#epoch;
  }

  /** The newest report; undefined before the first. */
  get newest(): Report | undefined {
    return this.#entries.at(-1)?.report;
  }

  /** Whether this chain began because reports of the one before were refused; forgotten once the origin has much of it. */
  get isToldAgain(): boolean {
    const first = this.#entries[0]?.report;
    return first?.seq === 1 && isNote(first);
  }

  /** The newest reports, oldest first: at least the last 16. */
  recent(): Report[] {
    return this.#entries.map(({ report }) => report);
  }

  /** Those that the origin hasn't acknowledged, oldest first. */
  pending(): PendingReport[] {
    if (this.#due) return [];
    return this.#entries
      .filter(({ report }) => report.seq > this.#acknowledgedSeq)
      .map(({ report, envelope, payloadSha256 }) => ({
        seq: report.seq,
        payloadSha256,
        lengthBytes: envelope.payload.length + ENVELOPE_BYTES,
        envelope,
      }));
  }

  /** Of those that the origin hasn't acknowledged, about. */
  get pendingBytes(): number {
    const isPending = ({ report }: Entry): boolean => report.seq > this.#acknowledgedSeq;
    return this.#entries
      .filter(isPending)
      .reduce((sum, { envelope }) => sum + envelope.payload.length + ENVELOPE_BYTES, 0);
  }

  get pendingCount(): number {
    return this.#due ? this.#due.events.length : (this.newest?.seq ?? 0) - this.#acknowledgedSeq;
  }

  /**
   * Durable, and in the chain, once it returns.
   * @throws SITECAST_OUTBOX_FULL; the system's error (ENOSPC …): then it isn't recorded, and may be tried again;
   *   SITECAST_REPORT_UNTELLABLE: then it never will be
   */
  append(event: Event): Promise<Report> {
    return this.#inTurn(async () => {
      await this.#settle();
      return this.#append(event);
    });
  }

  /** Tells again what was found and couldn't go on as it was, if that isn't done yet. @throws the system's error */
  settle(): Promise<void> {
    return this.#inTurn(() => this.#settle());
  }

  /**
   * Takes the origin's word, signed at `atMs` by its clock. One of another epoch is ignored. One beyond the newest report
   * says that this directory is older than what was sent from it (restored from a backup): the chain goes on as a new one.
   * A newer word that knows less than an older one did says the same of the origin: what is still here is sent again;
   * where that no longer reaches back far enough, a new chain begins. (An older word is just late, or replayed.)
   * @param reportSha256 of the payload of report `seq`. Where this file has another in its place, somebody else has reported
   *   with this key: then nothing of this file is acknowledged by it, and what is sent shows the origin that there are two
   */
  acknowledge(epoch: string, seq: number, atMs: number, reportSha256?: string): Promise<Acknowledged> {
    return this.#inTurn(async () => {
      if (epoch !== this.#epoch || this.#due) return 'ignored';
      const own = this.#entries.find(({ report }) => report.seq === seq);
      if (own && reportSha256 !== undefined && own.payloadSha256 !== reportSha256) return 'ignored';
      if (this.#isOffThisChain(seq, atMs)) {
        await this.#beginAnew(this.#entries.slice(-1).map(({ report }) => eventOf(report)));
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

  /** Whether there's such a report, which the origin hasn't acknowledged. */
  isPending(seq: number): boolean {
    return seq > this.#acknowledgedSeq && this.#entries.some(({ report }) => report.seq === seq);
  }

  /** Whether something can be left out of it besides. */
  canShorten(seq: number): boolean {
    const report = this.#entries.find(entry => entry.report.seq === seq)?.report;
    return report !== undefined && this.isPending(seq) && !isPlainEvent(report) && !isNote(report);
  }

  /**
   * Begins a new chain because reports of this one are refused on their way, and so hold up those behind them. It begins
   * with a note; then all is told again that the origin hasn't acknowledged, and at least the newest 16. (A chain whose first
   * report is as new as that is no sign of a clone, whatever of the old one is still on its way.)
   * @param note when, and why
   * @param refused why, by number: these are told without their texts
   */
  tellAgain(
    { at, message }: { at: string; message: string },
    refused: ReadonlyMap<number, string>,
  ): Promise<void> {
    return this.#inTurn(async () => {
      const { newest } = this;
      if (!newest || this.#due) return;
      const { timestampVersion, state, booted } = newest;
      const first = Math.min(this.#acknowledgedSeq, newest.seq - KEPT_REPORTS);
      const events = this.#entries
        .filter(({ report }) => report.seq > first && !isNote(report))
        .map(({ report }) => {
          const why = refused.get(report.seq);
          return why === undefined ? eventOf(report) : plainEvent(eventOf(report), why);
        });
      const note = { at, timestampVersion, state, booted, reason: { code: TOLD_AGAIN, message } };
      // Where there's no room for the note, nothing is left out for it.
      await this.#beginAnew([note, ...events], { isWhole: true });
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
    const before = this.#entries.at(-1);
    const entry = await sealEntry(event, { identity: this.#identity, epoch: this.#epoch, before });
    const line = linesOf([entry]);
    if (this.#lengthBytes + line.length > this.#maxBytes)
      throw new SitecastError('noSpace', 'SITECAST_OUTBOX_FULL', 'no more reports can be kept', {
        hint: 'they are waiting for the origin to acknowledge them',
      });
    await this.#appendLine(line);
    this.#entries.push(entry);
    return entry.report;
  }

  async #appendLine(line: Buffer): Promise<void> {
    if (this.#isReplaced) await this.#reopen();
    // After a failed write or fsync nobody knows what the file holds behind its good part.
    if (this.#isTailSuspect) await this.#handle.truncate(this.#lengthBytes);
    this.#isTailSuspect = true;
    await this.#files.append(this.#handle, line, 'report');
    this.#isTailSuspect = false;
    this.#lengthBytes += line.length;
  }

  async #settle(): Promise<void> {
    if (!this.#due) return;
    const { events, unreadable, hasPutAside } = this.#due;
    const directory = dirname(this.#path);
    if (unreadable > 0) await keepUnreadable(directory);
    await this.#beginAnew(events);
    if (hasPutAside) await settlePutAside(directory);
  }

  async #forget(count: number, atMs: number): Promise<void> {
    await noteForgotten(dirname(this.#path), { epoch: this.#epoch, atMs }, this.#files);
    this.#forgottenAtMs = atMs;
    await this.#rewrite(this.#entries.slice(count));
  }

  /** A new chain, which is there as a whole or not at all: nothing of the old one is lost in between. */
  async #beginAnew(events: readonly Event[], { isWhole = false } = {}): Promise<void> {
    const epoch = newEpoch();
    const place = { identity: this.#identity, epoch };
    const entries = await sealChain(events, place, this.#maxBytes);
    if (isWhole && entries.length < events.length) return;
    await this.#rewrite(entries, () => {
      this.#epoch = epoch;
      this.#acknowledgedSeq = 0;
      this.#acknowledgedAtMs = Number.NEGATIVE_INFINITY;
      this.#forgottenAtMs = Number.POSITIVE_INFINITY;
      this.#due = undefined;
    });
  }

  async #rewrite(entries: Entry[], onReplaced: () => void = () => {}): Promise<void> {
    const bytes = linesOf(entries);
    await this.#files.replace(this.#path, bytes, 0o600);
    this.#lengthBytes = bytes.length;
    this.#isTailSuspect = false;
    this.#entries = entries;
    this.#isReplaced = true;
    onReplaced();
    await this.#reopen();
  }

  async #reopen(): Promise<void> {
    const handle = await this.#files.openToAppend(this.#path);
    await this.#handle.close();
    this.#handle = handle;
    this.#isReplaced = false;
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {
      // The caller of `work` has got the error.
    });
    return done;
  }
}

const isNote = ({ reason }: Report): boolean => reason?.code === TOLD_AGAIN;
const newEpoch = (): string => randomBytes(8).toString('hex');
