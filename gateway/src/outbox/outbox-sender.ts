import { SitecastError } from '@sitecast/shared/errors';
import type { Acknowledgement } from '@sitecast/shared/fleet';
import { z } from 'zod';
import type { RelayedDocuments } from '../documents/relayed-documents.ts';
import type { Log } from '../log.ts';
import { Backoff, pause } from '../upstream/backoff.ts';
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
  rejected: z
    .array(z.object({ id: z.string(), epoch: z.string(), seq: z.number(), code: z.string().max(64) }))
    .max(MAX_REPORTS)
    .default([]),
});

/** Statuses that say something about the reports, not about the gateway or the moment. */
const BLAMES_REPORTS = new Set([400, 413, 422]);

interface OutboxSenderDeps {
  outbox: Outbox;
  acknowledgements: Pick<RelayedDocuments<Acknowledgement>, 'accept'>;
  upstreams: Pick<SiteUpstreams, 'ask'>;
  log: Log;
  gatherMs?: number;
}

/** Sends reports on, in batches; a report leaves the outbox when the origin has signed for it, or refused it. */
export class OutboxSender {
  readonly #deps: OutboxSenderDeps;
  readonly #backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  readonly #again = new Backoff(MIN_AGAIN_MS, MAX_AGAIN_MS);
  #wake: AbortController | undefined;
  #hasNews = false;

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
        await pause(gatherMs, signal);
        continue;
      }
      const isSent = await this.#send(batch);
      if (isSent) {
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

  /** @returns false if nobody could be asked: then it's sent again after a while */
  async #send(batch: readonly WaitingReport[]): Promise<boolean> {
    const { upstreams, log } = this.#deps;
    try {
      const { status, json } = await upstreams.ask('/site/v1/reports', {
        reports: batch.map(({ envelope }) => envelope),
      });
      if (status === 200) return await this.#settle(batch, json);
      log.warn({ status, code: codeOf(json), reports: batch.length }, 'the origin did not take reports');
      return BLAMES_REPORTS.has(status) ? await this.#findCulprit(batch, codeOf(json)) : false;
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      log.info({ code: error.code, reports: batch.length }, 'reports wait: they could not be sent');
      return false;
    }
  }

  async #settle(batch: readonly WaitingReport[], json: unknown): Promise<boolean> {
    const { outbox, log } = this.#deps;
    const answer = answerSchema.safeParse(json);
    if (!answer.success) {
      log.warn({}, 'an upstream answered reports with something else than acknowledgements');
      return false;
    }
    let left = 0;
    for (const value of answer.data.acknowledgements) left += await this.#acknowledge(value);
    for (const { id, epoch, seq, code } of answer.data.rejected) {
      const refused = batch.filter(
        report => report.id === id && report.epoch === epoch && report.seq === seq,
      );
      for (const report of refused) await outbox.reject(report, code);
      if (refused.length > 0) log.warn({ id, epoch, seq, code }, 'the origin refused a report');
    }
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
      log.warn({ code: error.code }, 'an acknowledgement is not signed by the origin');
      return 0;
    }
  }

  // One report that the origin can't take must not keep the others back.
  async #findCulprit(batch: readonly WaitingReport[], code: string): Promise<boolean> {
    const [first] = batch;
    if (batch.length === 1 && first) {
      await this.#deps.outbox.reject(first, code);
      return true;
    }
    const half = Math.ceil(batch.length / 2);
    return (await this.#send(batch.slice(0, half))) && (await this.#send(batch.slice(half)));
  }
}

function codeOf(json: unknown): string {
  const code = typeof json === 'object' && json !== null && 'code' in json ? json.code : undefined;
  return typeof code === 'string' ? code.slice(0, 64) : 'SITECAST_REPORT_REFUSED';
}
