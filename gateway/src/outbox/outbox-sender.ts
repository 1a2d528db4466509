import { SitecastError } from '@sitecast/shared/errors';
import type { Acknowledgement } from '@sitecast/shared/fleet';
import { cutText } from '@sitecast/shared/text';
import { z } from 'zod';
import type { RelayedDocuments } from '../documents/relayed-documents.ts';
import type { Log } from '../log.ts';
import { Backoff, pause } from '../upstream/backoff.ts';
import { problemIn } from '../upstream/problem.ts';
import type { SiteUpstreams } from '../upstream/site-upstreams.ts';
import { MAX_REPORTS } from './accept-reports.ts';
import type { Outbox, WaitingReport } from './outbox.ts';

/** Reports of one request, by weight: below the 1 MiB that the origin takes. */
const MAX_BATCH_BYTES = 700 * 1024;
const MIN_BACKOFF_MS = 1000;
const MAX_BACKOFF_MS = 5 * 60_000;
/** After reports come in, others are waited for, to go in one request. */
const GATHER_MS = 200;
/** How soon what the origin has neither acknowledged nor refused is sent again. */
const MIN_AGAIN_MS = 10_000;
const MAX_AGAIN_MS = 10 * 60_000;

const answerSchema = z.object({
  acknowledgements: z.array(z.unknown()).max(MAX_REPORTS).default([]),
  rejected: z.array(z.unknown()).max(MAX_REPORTS).default([]),
});
/** Of a report that couldn't be read there's just its place in the request. */
const rejectedSchema = z.object({
  index: z.int().min(0).optional(),
  id: z.string().optional(),
  epoch: z.string().optional(),
  seq: z.number().optional(),
  code: z.string().transform(code => cutText(code, MAX_CODE_CHARS)),
});
type Rejected = z.infer<typeof rejectedSchema>;

/** Statuses that say something about the reports, not about the gateway or the moment. */
const BLAMES_REPORTS = new Set([400, 413, 422]);
/** It was reached and failed at this: it may be what one report leads to. */
const FAILED = 500;
const MAX_CODE_CHARS = 64;
/** Reports that are refused one by one, and none is taken, before it's no longer believed that it's about them. */
const MAX_REFUSED_ALONE = 8;
/** An origin that takes some now would have refused for what they were those that were refused so shortly before. */
const SHORTLY_MS = 60_000;

interface RefusedAlone extends Pick<WaitingReport, 'key' | 'id' | 'epoch' | 'seq'> {
  code: string;
  /** By the status; else the origin failed at it, and may not the next time. */
  isItsFault: boolean;
  /** By a clock that never goes back, milliseconds. */
  atMs: number;
}

interface OutboxSenderDeps {
  outbox: Outbox;
  acknowledgements: Pick<RelayedDocuments<Acknowledgement>, 'accept'>;
  upstreams: Pick<SiteUpstreams, 'ask'>;
  log: Log;
  gatherMs?: number;
}

/**
 * Sends reports on, in batches; a report leaves the outbox when the origin has signed for it, or refused it. One that is refused
 * alone is passed over, so that the others go on; it's put aside only by an origin that takes others. (What refuses everything is
 * a proxy, say: then all of them stay.)
 */
export class OutboxSender {
  readonly #deps: OutboxSenderDeps;
  readonly #backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  readonly #again = new Backoff(MIN_AGAIN_MS, MAX_AGAIN_MS);
  /** What was refused alone since the queue was begun at its head, by key. */
  readonly #refused = new Map<string, RefusedAlone>();
  /** Of those, how many since one was taken. */
  #refusedInARow = 0;
  #wake: AbortController | undefined;
  #hasNews = false;
  /** As the log has it. */
  #isCutOff = false;

  constructor(deps: OutboxSenderDeps) {
    this.#deps = deps;
    deps.outbox.onAdded = () => {
      this.#hasNews = true;
      this.#wake?.abort();
    };
  }

  /** Returns when the signal comes. */
  async run(signal: AbortSignal): Promise<void> {
    const { outbox, gatherMs = GATHER_MS } = this.#deps;
    let after: string | undefined;
    while (!signal.aborted) {
      this.#hasNews = false;
      const batch = await outbox.next(after, { maxReports: MAX_REPORTS, maxBytes: MAX_BATCH_BYTES });
      if (batch.length === 0) {
        // What is left was sent once: it waits for its time, or for news.
        const isEmpty = after === undefined;
        after = await this.#rest(isEmpty ? undefined : this.#again.next(), after, signal);
        if (after === undefined) this.#refused.clear();
        await pause(gatherMs, signal);
        continue;
      }
      this.#refusedInARow = 0;
      if (await this.#sendAll(batch.filter(({ key }) => !this.#refused.has(key)))) {
        this.#backoff.reset();
        after = batch.at(-1)?.key;
      } else await pause(this.#backoff.next(), signal);
    }
  }

  /** @returns where to go on: behind what was sent if something new came, at the head if the time is over */
  async #rest(
    lengthMs: number | undefined,
    after: string | undefined,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    // It came after the queue was read.
    if (this.#hasNews) return after;
    this.#wake = new AbortController();
    const either = AbortSignal.any([signal, this.#wake.signal]);
    const isOver = await pause(lengthMs ?? MAX_AGAIN_MS, either);
    this.#wake = undefined;
    return isOver ? undefined : after;
  }

  /** @returns false where what is left is to be sent again after a while */
  async #sendAll(batch: readonly WaitingReport[]): Promise<boolean> {
    try {
      return await this.#send(batch);
    } catch (error) {
      // A full disk: what the origin has answered can't be written down.
      if (!(error instanceof SitecastError)) throw error;
      this.#deps.log.warn({ err: error }, 'what became of reports could not be kept; they are sent again');
      return false;
    }
  }

  /** @returns false if nobody could be asked, or all is refused */
  async #send(batch: readonly WaitingReport[]): Promise<boolean> {
    const [first] = batch;
    if (!first) return true;
    const { status, json } = await this.#ask(batch);
    if (status === undefined) return false;
    if (status === 200) return this.#settle(batch, json);
    const code = codeOf(json);
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

  /** @returns the status; undefined where nobody answered */
  async #ask(batch: readonly WaitingReport[]): Promise<{ status?: number; json?: unknown }> {
    const { upstreams, log } = this.#deps;
    const reports = batch.map(({ envelope }) => envelope);
    try {
      const answer = await upstreams.ask('/site/v1/reports', { reports });
      this.#isCutOff = false;
      return answer;
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      if (error.data.hasFailed === true) return { status: FAILED };
      const { code, message: detail } = error;
      log[this.#isCutOff ? 'debug' : 'info'](
        { code, detail, reports: batch.length },
        'reports wait: they could not be sent',
      );
      this.#isCutOff = true;
      return {};
    }
  }

  /** @returns false where it's no longer likely that it's about the reports */
  #passOver(refused: RefusedAlone): boolean {
    this.#refused.set(refused.key, refused);
    this.#refusedInARow += 1;
    return this.#refusedInARow < MAX_REFUSED_ALONE;
  }

  /** The origin takes reports: those that it has just refused as such it won't take later. Others are tried again. */
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
    await this.#deps.outbox.reject(report, code);
    this.#deps.log.warn(
      { device: id, epoch, seq, code, hint: '`sitecast device show` has what its device has told since.' },
      'the origin refused a report',
    );
  }

  async #settle(batch: readonly WaitingReport[], json: unknown): Promise<boolean> {
    const { log } = this.#deps;
    const answer = answerSchema.safeParse(json);
    if (!answer.success) {
      log.warn(
        {},
        'an upstream answered reports with something else than acknowledgements: is --origin right?',
      );
      return false;
    }
    const rejected = new Map<WaitingReport, string>();
    for (const value of answer.data.rejected) {
      const one = rejectedSchema.safeParse(value).data;
      const report = one && meantBy(one, batch);
      if (report) rejected.set(report, one.code);
    }
    if (rejected.size < batch.length) await this.#putAside();
    let left = 0;
    for (const value of answer.data.acknowledgements) left += await this.#acknowledge(value);
    for (const [report, code] of rejected) await this.#reject(report, code);
    if (left > 0) this.#again.reset();
    log.debug({ sent: batch.length, left }, 'reports were sent');
    return true;
  }

  async #acknowledge(value: unknown): Promise<number> {
    const { outbox, acknowledgements, log } = this.#deps;
    try {
      return await outbox.acknowledge(await acknowledgements.accept(value));
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

/** By its place in the request; an origin that doesn't say that names the report. */
function meantBy(
  { index, id, epoch, seq }: Rejected,
  batch: readonly WaitingReport[],
): WaitingReport | undefined {
  const isNamed = (report: WaitingReport): boolean =>
    (id ?? report.id) === report.id &&
    (epoch ?? report.epoch) === report.epoch &&
    (seq ?? report.seq) === report.seq;
  if (index === undefined && (id === undefined || epoch === undefined || seq === undefined)) return undefined;
  return (index === undefined ? batch : batch.slice(index, index + 1)).find(isNamed);
}

function codeOf(json: unknown): string {
  const code = typeof json === 'object' && json !== null && 'code' in json ? json.code : undefined;
  return typeof code === 'string' ? cutText(code, MAX_CODE_CHARS) : 'SITECAST_REPORT_REFUSED';
}
