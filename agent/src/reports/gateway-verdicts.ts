import { MAX_REPORT_WAIT_S, OVER_BUDGET } from '@sitecast/shared/fleet';
import type { Gateway, Log } from '../ports.ts';
import type { Outbox, PendingReport } from './outbox.ts';
import { type RejectedReport, rejectedReportReader, reportsReader } from '../upstream/answers.ts';

/** Milliseconds for which a gateway's refusal is remembered, and what it refused isn't sent to it. */
const REMEMBERED_MS = 5 * 60_000;
/** Reports that a gateway may refuse one by one, in one run, before it counts as a gateway that refuses everything. */
const MAX_REFUSED_ALONE = 4;
/** Refusals in one answer that are read. */
const MAX_REJECTED = 400;
/** Milliseconds between two new chains because of refusals, and after a start with such a chain. */
const MIN_BETWEEN_CHAINS_MS = 3_600_000;
/** Seconds that reports are kept back where a gateway doesn't say for how long. */
const DEFAULT_PUT_OFF_S = 60;
/** Seconds. Whatever a gateway says, it isn't asked again sooner. */
const MIN_PUT_OFF_S = 5;
/** Hexadecimal digits of a payload's SHA-256 by which a gateway names a report. */
const DIGEST_CHARS = 16;
/** Milliseconds after which a gateway that took a report, and brought no acknowledgement of the origin, isn't relied on. */
const RESEND_AFTER_MS = 5 * 60_000;

// What each gateway has done with the reports that were sent to it: which it refuses, which it took, and for how long it takes no more.
// All of this is kept in memory only.

/** Statuses that are about the reports, not about the sender or the moment. */
const BLAMES_REPORTS: ReadonlySet<number> = new Set([400, 413, 422]);
/** Codes for a report that can't be read as it is. */
const UNREADABLE: ReadonlySet<string> = new Set([
  'SITECAST_DOCUMENT_MALFORMED',
  'SITECAST_DOCUMENT_UNTRUSTED',
  'SITECAST_DOCUMENT_TOO_LARGE',
  'SITECAST_JSON_REFUSED',
]);
/** The origin has another report of that number: this chain can't go on. */
const FORKED = 'SITECAST_REPORT_FORK';

/** Seconds until a gateway takes reports of this device again; undefined for a refusal of another kind. */
export function putOffForS(code: string | undefined, retryAfterS: unknown): number | undefined {
  if (code !== OVER_BUDGET) return undefined;
  const isUsable = typeof retryAfterS === 'number' && retryAfterS >= 0;
  return isUsable ? Math.max(MIN_PUT_OFF_S, Math.min(retryAfterS, MAX_REPORT_WAIT_S)) : DEFAULT_PUT_OFF_S;
}

export function blamesReports(status: number): boolean {
  return BLAMES_REPORTS.has(status);
}

export interface Refused {
  seq: number;
  code: string;
  /** True: its text may be wrong. False: its place in the chain is. */
  isText: boolean;
}

/** What one gateway has said of the reports of one chain. */
export class Verdicts {
  readonly epoch: string;
  readonly sinceMs: number;
  readonly #refused = new Map<number, Refused>();
  #refusedAlone = 0;
  /** It has taken a report in this run. So what it refuses, it refuses for the report's content. */
  hasTaken = false;
  /** What it refuses for another reason, for people to look into. */
  otherRefusal: string | undefined;

  constructor(epoch: string, sinceMs: number) {
    this.epoch = epoch;
    this.sinceMs = sinceMs;
  }

  get refused(): readonly Refused[] {
    return [...this.#refused.values()];
  }

  /** Whether the next report is worth sending. */
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
   * @param pending all pending reports of the chain: one that was sent earlier may be refused by now
   * @returns the first report of the request that has to come later, if any, and in how many seconds
   */
  noteAnswer(
    batch: readonly PendingReport[],
    pending: readonly PendingReport[],
    body: unknown,
  ): { seq: number; forS: number } | undefined {
    let putOff: { seq: number; forS: number } | undefined;
    const { rejected = [] } = reportsReader.parse(body);
    const refused = new Set<PendingReport>();
    for (const value of rejected.slice(0, MAX_REJECTED)) {
      const one = rejectedReportReader.parse(value);
      const report = this.#meant(batch, pending, one);
      const { code = '', retryAfterS } = one;
      if (!report) continue;
      refused.add(report);
      const { seq } = report;
      const forS = putOffForS(code, retryAfterS);
      if (forS !== undefined) {
        if (batch.includes(report) && seq < (putOff?.seq ?? Number.POSITIVE_INFINITY)) putOff = { seq, forS };
      } else if (UNREADABLE.has(code)) this.#refused.set(seq, { seq, code, isText: true });
      else if (code === FORKED) this.#refused.set(seq, { seq, code, isText: false });
      else this.otherRefusal ??= `${seq}: ${code}`;
    }
    this.hasTaken ||= batch.some(report => !refused.has(report));
    return putOff;
  }

  /** Finds a report by its place in the request; or, if it was refused earlier and elsewhere, by its number and digest. */
  #meant(
    batch: readonly PendingReport[],
    pending: readonly PendingReport[],
    rejected: RejectedReport,
  ): PendingReport | undefined {
    const { index, epoch, digest } = rejected;
    if (index !== undefined) return batch[index];
    if (epoch !== this.epoch || digest?.length !== DIGEST_CHARS) return undefined;
    return pending.find(({ seq, payloadSha256 }) => seq === rejected.seq && payloadSha256.startsWith(digest));
  }
}

/**
 * What gateways refuse, and what follows from it. The origin only takes a chain without gaps: a report that is refused for its content
 * would hold up all later ones. So the chain begins anew, with that report without its texts.
 *
 * Any machine on the way can refuse. Therefore a new chain needs a report that every gateway refuses that could be asked, and a gateway
 * that takes other reports. Each report is shortened once, and a new chain begins once an hour at most, whatever a restart forgets.
 * Nothing is dropped: state, rollout, release and code are reported, and the text is in this device's own log.
 */
export class Refusals {
  readonly #outbox: Outbox;
  readonly #now: () => number;
  readonly #log: Log;
  readonly #byUrl = new Map<string, Verdicts>();
  #heard: { url: string; verdicts: Verdicts }[] = [];
  /** By `performance.now`. By the wall clock, a device whose clock begins anew at each boot would begin a chain at each boot. */
  #lastChainMs: number;

  constructor({ outbox, now, log }: { outbox: Outbox; now: () => number; log: Log }) {
    this.#outbox = outbox;
    this.#now = now;
    this.#log = log;
    // When the chain began isn't known, so the hour begins with the start.
    this.#lastChainMs = outbox.isToldAgain ? performance.now() : Number.NEGATIVE_INFINITY;
  }

  /** A run over the gateways begins. */
  begin(): void {
    this.#heard = [];
  }

  /** What a gateway has said of the present chain. */
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

  /** A gateway was sent all that is pending. */
  heard(url: string, verdicts: Verdicts): void {
    this.#heard.push({ url, verdicts });
  }

  /** Begins a new chain where one is due. @throws the system's error: then the old chain stays */
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

/**
 * Which gateway took which report of the chain, and when, until the origin has acknowledged it. A gateway may take a report and never
 * pass it on. A report that was taken and isn't acknowledged goes to the next gateway, one gateway in each period: so an origin that is
 * slow, or away, costs no more than with one gateway. Only kept in memory.
 */
export class TakenReports {
  readonly #now: () => number;
  /** By gateway, then by the report's number: when it was taken, milliseconds. */
  readonly #byUrl = new Map<string, Map<number, number>>();
  /** Gateways that left reports unacknowledged, the longest ago first. */
  readonly #silent = new Set<string>();
  #epoch = '';

  constructor(now: () => number) {
    this.#now = now;
  }

  /** A run over the gateways begins. @param pending numbers of the reports that the origin hasn't acknowledged */
  begin(epoch: string, pending: ReadonlySet<number>): void {
    if (epoch !== this.#epoch) this.clear();
    this.#epoch = epoch;
    for (const [url, taken] of this.#byUrl)
      if (this.#hasBrought(url, taken, pending)) this.#silent.delete(url);
    for (const [url, taken] of this.#byUrl) {
      const overdue = [...taken.keys()].filter(seq => pending.has(seq) && !this.isRecent(url, seq));
      for (const seq of [...taken.keys()].filter(each => !pending.has(each)).concat(overdue))
        taken.delete(seq);
      if (overdue.length === 0) continue;
      // Moves it to the end: all others are asked first.
      this.#silent.delete(url);
      this.#silent.add(url);
    }
  }

  /** Whether the origin has acknowledged a report that no other gateway took: then this gateway passed it on. */
  #hasBrought(url: string, taken: ReadonlyMap<number, number>, pending: ReadonlySet<number>): boolean {
    const others = [...this.#byUrl].filter(([other]) => other !== url).map(([, byOther]) => byOther);
    return [...taken.keys()].some(seq => !pending.has(seq) && !others.some(byOther => byOther.has(seq)));
  }

  /** In order of preference. Gateways that left reports unacknowledged come last. */
  inOrder(gateways: readonly Gateway[]): Gateway[] {
    const silent = [...this.#silent].flatMap(url => gateways.filter(gateway => gateway.url === url));
    return [...gateways.filter(({ url }) => !this.#silent.has(url)), ...silent];
  }

  isRecent(url: string, seq: number): boolean {
    const atMs = this.#byUrl.get(url)?.get(seq);
    return atMs !== undefined && Math.abs(this.#now() - atMs) < RESEND_AFTER_MS;
  }

  note(url: string, seqs: readonly number[]): void {
    const taken = this.#byUrl.get(url) ?? new Map<number, number>();
    this.#byUrl.set(url, taken);
    for (const seq of seqs) taken.set(seq, this.#now());
  }

  /** All reports are sent again. */
  clear(): void {
    this.#byUrl.clear();
  }
}

/** Gateways that take no more reports for now. */
export class PutOffs {
  readonly #now: () => number;
  /** By gateway: the time from which it takes reports of this device again, milliseconds. */
  readonly #untilMs = new Map<string, number>();

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Seconds until this gateway takes reports again; 0: now. */
  leftS({ url }: Gateway): number {
    const restS = Math.ceil(((this.#untilMs.get(url) ?? Number.NEGATIVE_INFINITY) - this.#now()) / 1000);
    // A clock that was set back doesn't make the wait longer than any gateway may ask for.
    if (restS > 0 && restS <= MAX_REPORT_WAIT_S) return restS;
    this.#untilMs.delete(url);
    return 0;
  }

  note({ url }: Gateway, forS: number): void {
    this.#untilMs.set(url, this.#now() + forS * 1000);
  }
}
