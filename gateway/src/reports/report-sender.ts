import { MAX_REPORTS_PER_REQUEST } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { type Acknowledgement, OVER_BUDGET } from '@sitecast/shared/fleet';
import { Backoff, sleep } from '@sitecast/shared/async';
import type { RelayedDocuments } from '../devices/relayed-documents.ts';
import type { Log } from '@sitecast/shared/log';
import {
  problemIn,
  refusalCodeIn,
  type RejectedReport,
  rejectedReportReader,
  reportsAnswerReader,
} from '../upstream/answers.ts';
import type { SiteUpstreams } from '../upstream/site-upstreams.ts';
import type { WanLimits } from '../wan/wan-limits.ts';
import type { ReportQueue, WaitingReport } from './report-queue.ts';
import type { Round } from './report-turns.ts';

/** How many bytes of reports a request may have if no rate sets a lower bound: on a thin link the next request waits for its end. */
const MAX_BATCH_BYTES = 256 * 1024;
/** The bound falls to this if larger requests get no answer: the link may be too slow for them. */
const LEAST_BATCH_BYTES = 8 * 1024;
const MIN_BACKOFF_MS = 1000;
const MAX_BACKOFF_MS = 5 * 60_000;
/** How long it waits for more reports after some came in, to send them in one request. */
const GATHER_MS = 200;
/** How soon reports that the origin has neither acknowledged nor refused are sent again, in ms. */
const MIN_AGAIN_MS = 10_000;
const MAX_AGAIN_MS = 10 * 60_000;
/** How long a device's reports are held back where the origin does not say, seconds. */
const DEFAULT_HOLD_S = 60;

/** Statuses whose cause is the reports, not the gateway or the moment. */
const BLAMES_REPORTS = new Set([400, 413, 422]);
/** The origin was reached and failed: a report may be the cause. */
const FAILED = 500;
/** After this many reports were refused one by one without any accepted one, the reports no longer count as the cause. */
const MAX_REFUSED_ALONE = 8;
/** If the origin accepts reports now, others that it has refused within this time before count as refused because of their content. */
const SHORTLY_MS = 60_000;

interface RefusedAlone extends Pick<WaitingReport, 'key' | 'id' | 'epoch' | 'seq'> {
  code: string;
  /** Whether the status blames the report; otherwise the origin failed, and may not fail the next time. */
  isItsFault: boolean;
  /** Milliseconds on a clock that never goes back. */
  atMs: number;
}

interface ReportSenderDeps {
  queue: ReportQueue;
  acknowledgements: Pick<RelayedDocuments<Acknowledgement>, 'accept'>;
  upstreams: Pick<SiteUpstreams, 'ask'>;
  limits: Pick<WanLimits, 'bytesAtOnce' | 'untilSent'>;
  log: Log;
  gatherMs?: number;
}

/**
 * Sends reports in batches, one of each device in turn. A report leaves the queue when the origin has acknowledged or refused it. If a
 * batch is refused, its halves are sent, until the refused report is alone. That report is skipped, so that the others go on, and moved
 * away only when the origin accepts others. (A proxy, for example, may refuse everything: then all reports stay.) A device that has used up
 * its budget at the origin is left out until it may send again.
 */
export class ReportSender {
  readonly #deps: ReportSenderDeps;
  readonly #backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  readonly #again = new Backoff(MIN_AGAIN_MS, MAX_AGAIN_MS);
  /** Devices that have used up their budget at the origin, and until when, milliseconds on a clock that never goes back. */
  readonly #heldUntilMs = new Map<string, number>();
  /** Reports of the last batch that the origin will accept later, by key. */
  readonly #putOff = new Set<string>();
  /** Reports that were refused alone since the round began, by key. */
  readonly #refused = new Map<string, RefusedAlone>();
  /** How many of them since a report was accepted. */
  #refusedInARow = 0;
  /** Bytes of reports that a request may have now. */
  #maxBytes = MAX_BATCH_BYTES;
  #wake: AbortController | undefined;
  #hasNews = false;
  /** Whether the log says that no upstream can be reached. */
  #isCutOff = false;

  constructor(deps: ReportSenderDeps) {
    this.#deps = deps;
    deps.queue.onAdded(() => {
      this.#hasNews = true;
      this.#wake?.abort();
    });
  }

  /** Returns when the signal comes. */
  async run(signal: AbortSignal): Promise<void> {
    const { queue, limits, gatherMs = GATHER_MS } = this.#deps;
    let round = queue.round();
    while (!signal.aborted) {
      this.#hasNews = false;
      const batch = await this.#nextOf(round);
      if (batch.length === 0) {
        if (await this.#rest(signal)) {
          // Everything left has been sent once, and is now sent again.
          round = queue.round();
          this.#refused.clear();
        }
        await sleep(gatherMs, signal);
        continue;
      }
      this.#refusedInARow = 0;
      this.#putOff.clear();
      if (await this.#sendAll(batch.filter(({ key }) => !this.#refused.has(key)))) {
        this.#backoff.reset();
        round.pass(batch.filter(({ key }) => !this.#putOff.has(key)).map(({ waiting }) => waiting));
      } else await sleep(this.#backoff.next(), signal);
      await limits.untilSent(signal).catch((error: unknown) => {
        if (!signal.aborted) throw error;
      });
    }
  }

  #nextOf(round: Round): Promise<WaitingReport[]> {
    const { queue, limits } = this.#deps;
    const nowMs = performance.now();
    for (const [id, untilMs] of this.#heldUntilMs) if (untilMs <= nowMs) this.#heldUntilMs.delete(id);
    const max = { maxReports: MAX_REPORTS_PER_REQUEST, maxBytes: limits.bytesAtOnce(this.#maxBytes) };
    return queue.next(round, max, id => this.#heldUntilMs.has(id));
  }

  /** @returns true when the time is over, false when a new report came */
  async #rest(signal: AbortSignal): Promise<boolean> {
    // A report came after the queues were read.
    if (this.#hasNews) return false;
    const restMs = this.#deps.queue.length === 0 ? MAX_AGAIN_MS : this.#again.next();
    const heldMs = Math.min(...this.#heldUntilMs.values()) - performance.now();
    this.#wake = new AbortController();
    const either = AbortSignal.any([signal, this.#wake.signal]);
    const isOver = await sleep(Math.max(0, Math.min(restMs, heldMs)), either);
    this.#wake = undefined;
    return isOver;
  }

  /** @returns false where the rest should be sent again after a while */
  async #sendAll(batch: readonly WaitingReport[]): Promise<boolean> {
    try {
      return await this.#send(batch);
    } catch (error) {
      // A full disk: the origin's answer cannot be written down.
      if (!(error instanceof SitecastError)) throw error;
      this.#deps.log.warn({ err: error }, 'what became of reports could not be kept; they are sent again');
      return false;
    }
  }

  /** @returns false where no upstream answered, or everything is refused */
  async #send(batch: readonly WaitingReport[]): Promise<boolean> {
    const [first] = batch;
    if (!first) return true;
    const { status, json } = await this.#ask(batch);
    if (status === undefined) return false;
    if (status === 200) return this.#settle(batch, json);
    const code = refusalCodeIn(json);
    const { detail, hint } = problemIn(json);
    this.#deps.log.warn(
      { status, code, detail, hint, reports: batch.length },
      'the origin did not take reports; they wait here',
    );
    const isItsFault = BLAMES_REPORTS.has(status);
    if (!isItsFault && status !== FAILED) return false;
    const { key, id, epoch, seq } = first;
    if (batch.length === 1)
      return this.#passOver({ key, id, epoch, seq, code, isItsFault, atMs: performance.now() });
    const half = Math.ceil(batch.length / 2);
    return (await this.#send(batch.slice(0, half))) && (await this.#send(batch.slice(half)));
  }

  /** @returns the status; undefined where no upstream answered */
  async #ask(batch: readonly WaitingReport[]): Promise<{ status?: number; json?: unknown }> {
    const { upstreams, log } = this.#deps;
    const reports = batch.map(({ envelope }) => envelope);
    try {
      const answer = await upstreams.ask('/site/v1/reports', { reports });
      this.#isCutOff = false;
      this.#maxBytes = Math.min(MAX_BATCH_BYTES, 2 * this.#maxBytes);
      return answer;
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      if (error.data.hasFailed === true) return { status: FAILED };
      const bytes = batch.reduce((sum, { waiting }) => sum + waiting.bytes, 0);
      this.#maxBytes = Math.max(LEAST_BATCH_BYTES, Math.min(this.#maxBytes, bytes) / 2);
      const { code, message: detail } = error;
      log[this.#isCutOff ? 'debug' : 'info'](
        { code, detail, reports: batch.length },
        'reports wait: they could not be sent',
      );
      this.#isCutOff = true;
      return {};
    }
  }

  /** @returns false where the reports are probably not the cause */
  #passOver(refused: RefusedAlone): boolean {
    this.#refused.set(refused.key, refused);
    this.#refusedInARow += 1;
    return this.#refusedInARow < MAX_REFUSED_ALONE;
  }

  /**
   * Called when the origin accepts reports: those that it has just refused because of their content are moved away. Others are tried
   * again.
   */
  async #putAside(): Promise<void> {
    this.#refusedInARow = 0;
    const sinceMs = performance.now() - SHORTLY_MS;
    for (const refused of this.#refused.values()) {
      if (!refused.isItsFault) continue;
      if (refused.atMs > sinceMs) await this.#reject(refused, refused.code);
      this.#refused.delete(refused.key);
    }
  }

  async #reject(report: Pick<WaitingReport, 'key' | 'id' | 'epoch' | 'seq'>, code: string): Promise<void> {
    const { id, epoch, seq } = report;
    await this.#deps.queue.reject(report, code);
    this.#deps.log.warn(
      { device: id, epoch, seq, code, hint: '`sitecast device show` has what its device has told since.' },
      'the origin refused a report',
    );
  }

  async #settle(batch: readonly WaitingReport[], json: unknown): Promise<boolean> {
    const { log } = this.#deps;
    const answer = reportsAnswerReader.safeParse(json);
    if (!answer.success) {
      log.warn(
        {},
        'an upstream answered reports with something else than acknowledgements: is --origin right?',
      );
      return false;
    }
    const rejected = new Map<WaitingReport, string>();
    for (const value of answer.data.rejected) {
      const one = rejectedReportReader.safeParse(value).data;
      const report = one && meantBy(one, batch);
      if (!report) continue;
      if (one.code === OVER_BUDGET) {
        this.#hold(report.id, one.retryAfterS);
        this.#putOff.add(report.key);
      } else rejected.set(report, one.code);
    }
    const putOff = batch.filter(({ key }) => this.#putOff.has(key)).length;
    if (rejected.size + putOff < batch.length) await this.#putAside();
    let left = 0;
    for (const value of answer.data.acknowledgements) left += await this.#acknowledge(value);
    for (const [report, code] of rejected) await this.#reject(report, code);
    if (left > 0) this.#again.reset();
    log.debug({ sent: batch.length, left, putOff }, 'reports were sent');
    return true;
  }

  #hold(id: string, retryAfterS = DEFAULT_HOLD_S): void {
    if (!this.#heldUntilMs.has(id))
      this.#deps.log.info(
        { device: id, retryAfterS },
        'the origin takes no more reports of a device for now',
      );
    this.#heldUntilMs.set(id, performance.now() + retryAfterS * 1000);
  }

  async #acknowledge(value: unknown): Promise<number> {
    const { queue, acknowledgements, log } = this.#deps;
    try {
      return await queue.acknowledge(await acknowledgements.accept(value));
    } catch (error) {
      if (!(error instanceof SitecastError) || error.kind === 'noSpace') throw error;
      log.warn(
        { err: error },
        'an acknowledgement is not signed by the origin: something between here and there alters it',
      );
      return 0;
    }
  }
}

/** The report that a refusal is about: by its place in the request, or by its name if the origin doesn't give the place. */
function meantBy(
  { index, id, epoch, seq }: RejectedReport,
  batch: readonly WaitingReport[],
): WaitingReport | undefined {
  const isAllowed = (report: WaitingReport): boolean =>
    (id ?? report.id) === report.id &&
    (epoch ?? report.epoch) === report.epoch &&
    (seq ?? report.seq) === report.seq;
  if (index === undefined && (id === undefined || epoch === undefined || seq === undefined)) return undefined;
  return (index === undefined ? batch : batch.slice(index, index + 1)).find(isAllowed);
}
