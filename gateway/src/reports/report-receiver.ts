import { createHash } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import {
  type Acknowledgement,
  type Assignment,
  OVER_BUDGET,
  REPORT_RATE,
  readReport,
  type Report,
  reportBytes,
  reportsOverBudget,
  reportsRetryAfterS,
} from '@sitecast/shared/fleet';
import { TokenBucket, TokenBuckets } from '@sitecast/shared/bounded';
import { type Envelope, envelopeSchema, fastVerifyById } from '@sitecast/shared/identity';
import type { RelayedDocuments } from '../devices/relayed-documents.ts';
import type { ReportQueue, QueuedReport } from './report-queue.ts';

/** Reports in one request of a sender that this gateway knows no assignment of. */
export const MAX_STRANGERS_REPORTS_A_REQUEST = 10;
/** Bytes of reports that all such senders together may send over the WAN: the origin will refuse most of them. */
const STRANGERS_BYTES = { perS: 2 * 1024, burst: 256 * 1024 };
/** The same from one address, so that no machine takes all of it. */
const STRANGERS_BYTES_AN_ADDRESS = { perS: 512, burst: 64 * 1024 };
/** Parsed keys that are kept: those of a site's devices. */
const MAX_PARSED_KEYS = 10_000;
/** Devices whose budgets are kept, as many as assignments: a forgotten budget would start full. */
const MAX_BUDGETS = 50_000;

interface ReportReceiverDeps {
  queue: Pick<ReportQueue, 'add' | 'refusedOf'>;
  assignments: Pick<RelayedDocuments<Assignment>, 'known'>;
  acknowledgements: Pick<RelayedDocuments<Acknowledgement>, 'get'>;
  /** A device says which release it runs, and what else is to be known of it. */
  onRunning?: (id: string, counter: number, inventory: Report['inventory']) => void;
  now: () => number;
}

/** A report with its place in the request. */
type IndexedEntry = QueuedReport & { index: number };

/** A report that is not taken, or that the origin refused. */
interface RejectedReport {
  /** Its place in the request, from 0; undefined for one that came earlier. */
  index?: number;
  epoch?: string;
  seq?: number;
  /** The first 16 hexadecimal digits of the SHA-256 of its payload. */
  digest?: string;
  code: string;
  /** Seconds until the device may send it again. */
  retryAfterS?: number;
}

interface AcceptedReports {
  acknowledgement: Envelope | undefined;
  rejected: RejectedReport[];
}

/** Takes reports from the devices that made them: checks each, queues it, and answers with what the origin has acknowledged. */
export class ReportReceiver {
  readonly #deps: ReportReceiverDeps;
  readonly #verify = fastVerifyById(MAX_PARSED_KEYS);

  readonly #budgets: TokenBuckets;
  readonly #strangersBytes: TokenBucket;
  readonly #addressBytes: TokenBuckets;
  /** Reports over their device's budget, since the start. */
  overBudget = 0;

  constructor(deps: ReportReceiverDeps) {
    this.#deps = deps;
    const { now } = deps;
    this.#budgets = new TokenBuckets({ ...REPORT_RATE, now, maxKeys: MAX_BUDGETS });
    this.#strangersBytes = new TokenBucket({ ...STRANGERS_BYTES, now });
    this.#addressBytes = new TokenBuckets({ ...STRANGERS_BYTES_AN_ADDRESS, now });
  }

  /**
   * Takes the valid reports, whatever the others are. Where the device's budget does not suffice, the first report over it and all after it
   * are for later.
   * @param sender the device that signed the request: it may bring only its own reports
   * @param address where the request comes from
   * @returns what the origin has acknowledged to the device so far, as far as this gateway knows; and the reports that are
   *   refused, here or by the origin
   * @throws SITECAST_REVOKED (forbidden), SITECAST_RATE_LIMITED (unreachable), what the queue throws; where no report is valid, the
   *   first one's error: SITECAST_DOCUMENT_MALFORMED, SITECAST_DOCUMENT_UNTRUSTED, SITECAST_NOT_YOURS; or
   *   SITECAST_REPORTS_OVER_BUDGET (unreachable) with {retryAfterS}
   */
  async accept(sender: string, reports: readonly unknown[], address?: string): Promise<AcceptedReports> {
    const assignment = await this.#deps.assignments.known(sender);
    if (assignment?.revoked)
      throw new SitecastError('forbidden', 'SITECAST_REVOKED', 'this device was revoked');
    if (!assignment) this.#checkStranger(reports, address);
    const { entries, rejected } = this.#sort(sender, reports, assignment !== undefined);
    const { queue, acknowledgements } = this.#deps;
    const budget = assignment && this.#budgets.of(sender);
    const over = await queue.add(entries, budget);
    if (budget && over.length > 0) rejected.push(...this.#putOff(over, entries, budget));
    const epochs = new Set(entries.map(({ epoch }) => epoch));
    const refused = [...epochs].flatMap(epoch => queue.refusedOf(sender, epoch));
    return {
      acknowledgement: await acknowledgements.get(sender, { isForwarded: true }),
      rejected: [...rejected, ...refused],
    };
  }

  /** @throws SITECAST_REPORTS_OVER_BUDGET where all reports are over the budget */
  #putOff(
    over: readonly IndexedEntry[],
    entries: readonly IndexedEntry[],
    budget: TokenBucket,
  ): RejectedReport[] {
    this.overBudget += over.length;
    const bytes = over.map(({ envelope }) => reportBytes(envelope));
    const retryAfterS = reportsRetryAfterS(bytes, count => budget.waitS(count));
    if (over.length === entries.length) throw reportsOverBudget(retryAfterS);
    return over.map(({ index }) => ({ index, code: OVER_BUDGET, retryAfterS }));
  }

  #sort(
    sender: string,
    reports: readonly unknown[],
    isKnown: boolean,
  ): { entries: IndexedEntry[]; rejected: RejectedReport[] } {
    const entries: IndexedEntry[] = [];
    const errors: [index: number, error: SitecastError][] = [];
    for (const [index, value] of reports.entries()) {
      try {
        entries.push({ ...this.#check(sender, value, isKnown), index });
      } catch (error) {
        if (!(error instanceof SitecastError)) throw error;
        errors.push([index, error]);
      }
    }
    const [first] = errors;
    if (first && entries.length === 0) throw first[1];
    return { entries, rejected: errors.map(([index, { code }]) => ({ index, code })) };
  }

  /** Any machine on the LAN can be many unknown senders. */
  #checkStranger(reports: readonly unknown[], address: string | undefined): void {
    const isTooMuch = reports.length > MAX_STRANGERS_REPORTS_A_REQUEST;
    const bytes = bytesOf(reports);
    const isWithin = address === undefined || this.#addressBytes.take(address, bytes);
    if (!isTooMuch && isWithin && this.#strangersBytes.take(bytes)) return;
    throw new SitecastError(
      'unreachable',
      'SITECAST_RATE_LIMITED',
      'no assignment of this device is known here: its reports can wait',
      { hint: `Send at most ${MAX_STRANGERS_REPORTS_A_REQUEST} at a time, later.` },
    );
  }

  #check(sender: string, value: unknown, isKnown: boolean): QueuedReport {
    const unverified = readReport(value);
    const { id, epoch, seq, booted, inventory } = unverified.document;
    if (id !== sender) throw notYours(id);
    unverified.verify([id], this.#verify);
    if (isKnown && booted?.release) this.#deps.onRunning?.(id, booted.release.counter, inventory);
    const digest = createHash('sha256').update(unverified.payload).digest('hex').slice(0, 16);
    return { id, epoch, seq, digest, isKnown, envelope: envelopeSchema.parse(value) };
  }
}

/** Bytes of the reports that would be sent on. Anything else is refused when it is read. */
function bytesOf(reports: readonly unknown[]): number {
  let lengthBytes = 0;
  for (const value of reports) {
    const { data } = envelopeSchema.safeParse(value);
    if (data) lengthBytes += reportBytes(data);
  }
  return lengthBytes;
}

/** The error for a request about another device than its signer. */
export function notYours(id: string): SitecastError {
  return new SitecastError(
    'forbidden',
    'SITECAST_NOT_YOURS',
    'this is about another than who signed the request',
    {
      data: { id },
    },
  );
}
