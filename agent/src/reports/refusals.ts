import { MAX_REPORT_WAIT_S, OVER_BUDGET } from '@sitecast/shared/fleet';
import type { Log } from '../ports.ts';
import type { Outbox, PendingReport } from './outbox.ts';
import { fieldOf, textOf } from '../upstream/answers.ts';

/** A gateway's refusal is remembered, and what it refused isn't sent to it, for so long, milliseconds. */
const REMEMBERED_MS = 5 * 60_000;
/** Reports that a gateway may refuse one by one, in one run, before it counts as one that refuses everything. */
const MAX_REFUSED_ALONE = 4;
/** Refusals in one answer that are looked at. */
const MAX_REJECTED = 400;
/** Because of refusals a new chain begins that often at most, and not sooner after a start into such a one, milliseconds. */
const MIN_BETWEEN_CHAINS_MS = 3_600_000;
/** For how long reports are kept back where a gateway doesn't say, seconds. */
const DEFAULT_PUT_OFF_S = 60;
/** Whatever a gateway says, it isn't asked again sooner, seconds. */
const MIN_PUT_OFF_S = 5;
/** Hexadecimal digits of a payload's SHA-256 by which a gateway says which report it means. */
const DIGEST_CHARS = 16;

/** Statuses that say something about the reports, not about the sender or the moment. */
const BLAMES_REPORTS: ReadonlySet<number> = new Set([400, 413, 422]);
/** Codes for a report that can't be read as it is. */
const UNREADABLE: ReadonlySet<string> = new Set([
  'SITECAST_DOCUMENT_MALFORMED',
  'SITECAST_DOCUMENT_UNTRUSTED',
  'SITECAST_DOCUMENT_TOO_LARGE',
  'SITECAST_JSON_REFUSED',
]);
/** The origin has another report in its place: this chain can't go on. */
const FORKED = 'SITECAST_REPORT_FORK';

/** Where a gateway takes no more reports of this device for now: in how many seconds it does; undefined for all else. */
export function putOffForS(refusal: unknown): number | undefined {
  if (textOf(refusal, 'code') !== OVER_BUDGET) return undefined;
  const told = fieldOf(refusal, 'retryAfterS') ?? fieldOf(fieldOf(refusal, 'data'), 'retryAfterS');
  const isUsable = typeof told === 'number' && told >= 0;
  return isUsable ? Math.max(MIN_PUT_OFF_S, Math.min(told, MAX_REPORT_WAIT_S)) : DEFAULT_PUT_OFF_S;
}

export function blamesReports(status: number): boolean {
  return BLAMES_REPORTS.has(status);
}

export interface Refused {
  seq: number;
  code: string;
  /** Its text may be what is wrong; else it's its place in the chain. */
  isText: boolean;
}

/** What one gateway has said of the reports of one chain. */
export class Verdicts {
  readonly epoch: string;
  readonly sinceMs: number;
  readonly #refused = new Map<number, Refused>();
  #refusedAlone = 0;
  /** It has taken one in this run: what it refuses, it refuses for what that is. */
  hasTaken = false;
  /** What it refuses for another reason, which is for somebody to look into. */
  otherRefusal: string | undefined;

  constructor(epoch: string, sinceMs: number) {
    this.epoch = epoch;
    this.sinceMs = sinceMs;
  }

  get refused(): readonly Refused[] {
    return [...this.#refused.values()];
  }

  /** Whether it's worth asking it for the next one. */
  get mayGoOn(): boolean {
    return this.hasTaken || this.#refusedAlone < MAX_REFUSED_ALONE;
  }

  hasRefused(seq: number): boolean {
    return this.#refused.has(seq);
  }

  beginRun(): void {
    this.hasTaken = false;
    this.#refusedAlone = 0;
    this.otherRefusal = undefined;
  }

  /** A request with this report alone was refused. */
  noteAlone({ seq }: PendingReport, code: string): void {
    this.#refusedAlone += 1;
    this.#refused.set(seq, { seq, code, isText: true });
  }

  /**
   * A request with some reports was answered.
   * @param pending all of the chain that wait: what was sent earlier may be refused by now
   * @returns the first of the request that is to come later, where there's one, and in how many seconds
   */
  noteAnswer(
    batch: readonly PendingReport[],
    pending: readonly PendingReport[],
    body: unknown,
  ): { seq: number; forS: number } | undefined {
    let putOff: { seq: number; forS: number } | undefined;
    const rejected = fieldOf(body, 'rejected');
    const refused = new Set<PendingReport>();
    for (const one of Array.isArray(rejected) ? rejected.slice(0, MAX_REJECTED) : []) {
      const report = this.#meant(batch, pending, one);
      const code = textOf(one, 'code') ?? '';
      if (!report) continue;
      refused.add(report);
      const { seq } = report;
      const forS = putOffForS(one);
      if (forS !== undefined) {
        if (batch.includes(report) && seq < (putOff?.seq ?? Number.POSITIVE_INFINITY)) putOff = { seq, forS };
      } else if (UNREADABLE.has(code)) this.#refused.set(seq, { seq, code, isText: true });
      else if (code === FORKED) this.#refused.set(seq, { seq, code, isText: false });
      else this.otherRefusal ??= `${seq}: ${code}`;
    }
    this.hasTaken ||= batch.some(report => !refused.has(report));
    return putOff;
  }

  /** By its place in the request; or, for one that was refused earlier and elsewhere, by what it is. */
  #meant(
    batch: readonly PendingReport[],
    pending: readonly PendingReport[],
    rejected: unknown,
  ): PendingReport | undefined {
    const index = fieldOf(rejected, 'index');
    if (typeof index === 'number') return batch[index];
    const digest = textOf(rejected, 'digest');
    if (fieldOf(rejected, 'epoch') !== this.epoch || digest?.length !== DIGEST_CHARS) return undefined;
    return pending.find(
      ({ seq, payloadSha256 }) => seq === fieldOf(rejected, 'seq') && payloadSha256.startsWith(digest),
    );
  }
}

/**
 * What gateways refuse, and what follows from it. The origin takes a chain without gaps alone: one report that is refused for
 * what it is would hold up all that come after it. So the chain begins anew, with that report told without its texts.
 *
 * Anybody on the way can refuse. Therefore: only what every gateway refuses that could be asked; only by a gateway that takes
 * other reports; each report once; and a new chain once an hour at most, whatever a restart forgets. Nothing is dropped: state, rollout, release and code
 * are told, and the text is in this device's own log.
 */
export class Refusals {
  readonly #outbox: Outbox;
  readonly #now: () => number;
  readonly #log: Log;
  readonly #byUrl = new Map<string, Verdicts>();
  #heard: { url: string; verdicts: Verdicts }[] = [];
  /** By `performance.now`: a device whose clock begins anew at each boot would begin a chain at each. */
  #lastChainMs: number;

  constructor({ outbox, now, log }: { outbox: Outbox; now: () => number; log: Log }) {
    this.#outbox = outbox;
    this.#now = now;
    this.#log = log;
    // How long ago that was, nobody knows: the hour begins with the start.
    this.#lastChainMs = outbox.isToldAgain ? performance.now() : Number.NEGATIVE_INFINITY;
  }

  /** A run over the gateways begins. */
  begin(): void {
    this.#heard = [];
  }

  /** What a gateway has said so far. */
  of(url: string): Verdicts {
    const nowMs = this.#now();
    const { epoch } = this.#outbox;
    let verdicts = this.#byUrl.get(url);
    const isOld = verdicts?.epoch !== epoch || Math.abs(nowMs - verdicts.sinceMs) > REMEMBERED_MS;
    if (!verdicts || isOld) verdicts = new Verdicts(epoch, nowMs);
    verdicts.beginRun();
    this.#byUrl.set(url, verdicts);
    return verdicts;
  }

  /** A gateway was asked for all that is pending. */
  heard(url: string, verdicts: Verdicts): void {
    this.#heard.push({ url, verdicts });
  }

  /** Begins a new chain where that is due. @throws the system's error: then the old one stays */
  async settle(): Promise<void> {
    const refused = this.#refusedByAll();
    const [first] = refused;
    if (!first || performance.now() - this.#lastChainMs < MIN_BETWEEN_CHAINS_MS) return;
    const message = `${first.url} refuses report ${first.seq} (${first.code}): what waits is told again in this chain`;
    this.#log('warn', message, { reports: refused.map(({ seq, code }) => ({ seq, code })) });
    const texts = refused.filter(({ isText }) => isText);
    await this.#outbox.tellAgain(
      { at: new Date(this.#now()).toISOString(), message },
      new Map(texts.map(({ seq, code }) => [seq, `it was refused with ${code}`])),
    );
    this.#lastChainMs = performance.now();
  }

  #refusedByAll(): (Refused & { url: string })[] {
    const one = this.#heard.find(({ verdicts }) => verdicts.hasTaken);
    if (one?.verdicts.epoch !== this.#outbox.epoch) return [];
    return one.verdicts.refused
      .filter(({ seq }) => this.#heard.every(({ verdicts }) => verdicts.hasRefused(seq)))
      .filter(({ seq, isText }) => (isText ? this.#outbox.canShorten(seq) : this.#outbox.isPending(seq)))
      .map(refused => ({ ...refused, url: one.url }));
  }
}
