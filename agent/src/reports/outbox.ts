import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { isPlainEvent, plainEvent, type Report, type ReportEvent, TOLD_AGAIN } from '@sitecast/shared/fleet';
import type { Envelope, Identity } from '@sitecast/shared/identity';
import pLimit from 'p-limit';
import { type DurableFiles, durableFiles } from '../state/durable-files.ts';
import {
  type FoundReports,
  findReports,
  keepUnreadable,
  settlePutAside,
  type TellAgain,
} from './found-reports.ts';
import {
  type Entry,
  eventOf,
  FILE_NAME,
  forgottenAtMs,
  linesOf,
  noteForgotten,
  ReportChainFile,
  sealChain,
  sealEntry,
} from './report-chain.ts';

/** Bytes that the file has at most. Later events aren't recorded until the origin has acknowledged earlier ones. */
const MAX_OUTBOX_BYTES = 16 * 1024 * 1024;
/** Bytes that are read of a file: an earlier version may have written more. */
const MAX_FILE_BYTES = MAX_OUTBOX_BYTES + 1024 * 1024;
/** Acknowledged reports that are kept before the file is replaced. */
const MAX_ACKNOWLEDGED = 64;
/** So many of the newest reports stay, acknowledged or not: they say what has been reported of the update in progress. */
const KEPT_REPORTS = 16;
/** Bytes of an envelope besides its payload, at most. */
const ENVELOPE_BYTES = 512;

/** `takenBack`: the origin has lost some reports, and they are sent again. */
type Acknowledged = 'ignored' | 'taken' | 'takenBack' | 'newChain';

export interface PendingReport {
  seq: number;
  payloadSha256: string;
  /** Length of its JSON, about. */
  lengthBytes: number;
  envelope: Envelope;
}

/**
 * The device's reports until the origin has acknowledged them. Each is durable before it may be sent. The newest one stays for good: the
 * next report's number and hash follow from it.
 *
 * A line that a power cut shortened was never sent, so its number is free again. A whole line that doesn't fit the chain may have been
 * sent: then the chain can't be continued honestly, and a new one begins, with a new epoch. The same holds where the file has a report
 * that no reader takes. What this device has signed is reported again in the new chain.
 */
export class Outbox {
  /** What was found at the start where the chain couldn't be continued; undefined where it could. */
  readonly foundWrong: TellAgain | undefined;
  readonly #directory: string;
  readonly #identity: Identity;
  readonly #files: DurableFiles;
  readonly #file: ReportChainFile;
  readonly #maxBytes: number;
  #entries: Entry[];
  #epoch: string;
  #acknowledgedSeq: number;
  /** Milliseconds by the origin's clock, when it signed the newest acknowledgement that this process has seen. */
  #acknowledgedAtMs = Number.NEGATIVE_INFINITY;
  /** The same of the acknowledgement after which the oldest reports were dropped. */
  #forgottenAtMs: number;
  /** To be reported in a new chain before anything else. Until then the file stays as it was found, and nothing of it is sent. */
  #due: TellAgain | undefined;
  readonly #inTurn = pLimit(1);

  private constructor(
    directory: string,
    init: {
      identity: Identity;
      files: DurableFiles;
      file: ReportChainFile;
      found: FoundReports;
      maxBytes: number;
      forgottenAtMs: number;
    },
  ) {
    const { entries, toTellAgain } = init.found;
    this.#directory = directory;
    this.#identity = init.identity;
    this.#files = init.files;
    this.#file = init.file;
    this.#maxBytes = init.maxBytes;
    this.#forgottenAtMs = init.forgottenAtMs;
    this.#entries = entries;
    this.foundWrong = toTellAgain;
    this.#due = toTellAgain;
    this.#epoch = entries.at(-1)?.report.epoch ?? newEpoch();
    this.#acknowledgedSeq = (entries[0]?.report.seq ?? 1) - 1;
  }

  static async open(
    directory: string,
    identity: Identity,
    files = durableFiles,
    maxBytes = MAX_OUTBOX_BYTES,
  ): Promise<Outbox> {
    const found = await findReports(directory, identity.id, MAX_FILE_BYTES);
    const { lengthBytes, toTellAgain } = found;
    const file = await ReportChainFile.open(join(directory, FILE_NAME), files, {
      lengthBytes,
      isToBeKept: toTellAgain !== undefined,
    });
    const forgottenMs = await forgottenAtMs(directory, found.entries[0]);
    const init = { identity, files, file, found, maxBytes, forgottenAtMs: forgottenMs };
    const outbox = new Outbox(directory, init);
    try {
      await outbox.settle();
    } catch (error) {
      // A full disk: the file stays as it was found, and this is tried again before anything else is reported.
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

  /** Whether this chain began because reports of the chain before were refused. Unknown once the first reports are dropped. */
  get isToldAgain(): boolean {
    const first = this.#entries[0]?.report;
    return first?.seq === 1 && isNote(first);
  }

  /** The newest reports, oldest first: at least the last 16. */
  recent(): Report[] {
    return this.#entries.map(({ report }) => report);
  }

  /** The reports that the origin hasn't acknowledged, oldest first. */
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

  /** Bytes of the reports that the origin hasn't acknowledged, about. */
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
   * Adds a report to the chain. It is durable once this returns.
   * @throws SITECAST_OUTBOX_FULL; the system's error (ENOSPC …): then it isn't recorded, and may be tried again;
   *   SITECAST_REPORT_UNTELLABLE: then it never can be recorded
   */
  append(event: ReportEvent): Promise<Report> {
    return this.#inTurn(async () => {
      await this.#settle();
      return this.#append(event);
    });
  }

  /** Reports again what was found and couldn't be continued, unless that is done. @throws the system's error */
  settle(): Promise<void> {
    return this.#inTurn(() => this.#settle());
  }

  /**
   * Takes an acknowledgement, signed by the origin at `atMs` by its clock. One of another epoch is ignored. One beyond the newest report
   * says that this directory is older than what was sent from it (it was restored from a backup): a new chain begins. A newer
   * acknowledgement of less than before says the same of the origin: what is still here is sent again, and where that doesn't reach
   * back far enough, a new chain begins. An older acknowledgement is late or replayed, and ignored.
   * @param reportSha256 of the payload of report `seq`. Where this chain has another report there, another machine has reported with
   *   this key. Then nothing of this chain is acknowledged, and what is sent shows the origin that there are two
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

  /** Whether there is a report of that number that the origin hasn't acknowledged. */
  isPending(seq: number): boolean {
    return seq > this.#acknowledgedSeq && this.#entries.some(({ report }) => report.seq === seq);
  }

  /** Whether it is pending and still has texts that can be left out. */
  canShorten(seq: number): boolean {
    const report = this.#entries.find(entry => entry.report.seq === seq)?.report;
    return report !== undefined && this.isPending(seq) && !isPlainEvent(report) && !isNote(report);
  }

  /**
   * Begins a new chain, because reports of this one are refused on their way and so hold up those behind them. It begins with a note;
   * then comes all that the origin hasn't acknowledged, and at least the newest 16. (A chain whose first report is as new as that is no
   * sign of a clone, whatever of the old chain is still on its way.)
   * @param note when, and why
   * @param refused why, by number: these are reported without their texts
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
      // Without room for the note the chain stays as it is: no report is left out for it.
      await this.#beginAnew([note, ...events], { isWhole: true });
    });
  }

  /** Whether this chain can't be continued from the report that the origin knows as its last. */
  #isOffThisChain(seq: number, atMs: number): boolean {
    return seq > (this.newest?.seq ?? 0) || (seq < this.#oldestSeq - 1 && atMs > this.#forgottenAtMs);
  }

  get #oldestSeq(): number {
    return this.#entries[0]?.report.seq ?? 1;
  }

  async close(): Promise<void> {
    await this.#inTurn(() => this.#file.close());
  }

  async #append(event: ReportEvent): Promise<Report> {
    const before = this.#entries.at(-1);
    const entry = await sealEntry(event, { identity: this.#identity, epoch: this.#epoch, before });
    const line = linesOf([entry]);
    if (this.#file.isUnknown) await this.#rewrite(this.#entries);
    if (this.#file.lengthBytes + line.length > this.#maxBytes)
      throw new SitecastError('noSpace', 'SITECAST_OUTBOX_FULL', 'no more reports can be kept', {
        hint: 'they are waiting for the origin to acknowledge them',
      });
    await this.#file.append(line);
    this.#entries.push(entry);
    return entry.report;
  }

  async #settle(): Promise<void> {
    if (!this.#due) return;
    const { events, unreadable, hasPutAside } = this.#due;
    if (unreadable > 0) await keepUnreadable(this.#directory);
    await this.#beginAnew(events);
    if (hasPutAside) await settlePutAside(this.#directory);
  }

  async #forget(count: number, atMs: number): Promise<void> {
    await noteForgotten(this.#directory, { epoch: this.#epoch, atMs }, this.#files);
    this.#forgottenAtMs = atMs;
    await this.#rewrite(this.#entries.slice(count));
  }

  /** Replaces the chain. The new one is there as a whole or not at all, so nothing of the old one is lost in between. */
  async #beginAnew(events: readonly ReportEvent[], { isWhole = false } = {}): Promise<void> {
    const epoch = newEpoch();
    const place = { identity: this.#identity, epoch };
    const entries = await sealChain(events, place, this.#maxBytes);
    if (isWhole && entries.length < events.length) return;
    await this.#rewrite(entries);
    this.#epoch = epoch;
    this.#acknowledgedSeq = 0;
    this.#acknowledgedAtMs = Number.NEGATIVE_INFINITY;
    this.#forgottenAtMs = Number.POSITIVE_INFINITY;
    this.#due = undefined;
  }

  async #rewrite(entries: Entry[]): Promise<void> {
    await this.#file.replace(linesOf(entries));
    this.#entries = entries;
  }
}

const isNote = ({ reason }: Report): boolean => reason?.code === TOLD_AGAIN;
const newEpoch = (): string => randomBytes(8).toString('hex');
