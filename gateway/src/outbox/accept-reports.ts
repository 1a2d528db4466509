import { createHash } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import { type Acknowledgement, type Assignment, readReport } from '@sitecast/shared/fleet';
import { type Envelope, envelopeSchema, fastVerifyById } from '@sitecast/shared/identity';
import type { RelayedDocuments } from '../documents/relayed-documents.ts';
import { TokenBucket } from '../storage/token-bucket.ts';
import type { Outbox, OutboxEntry } from './outbox.ts';

/** Reports in one request. */
export const MAX_REPORTS = 200;
/** In one request of a sender that this gateway knows no assignment of. */
export const MAX_STRANGERS_REPORTS_A_REQUEST = 10;
/** What all such senders together may send over the WAN, in bytes of reports: the origin will refuse most of it. */
const STRANGERS_BYTES = { perS: 2 * 1024, burst: 256 * 1024 };
/** Keys kept parsed: a site's devices. */
const MAX_PARSED_KEYS = 10_000;

interface AcceptReportsDeps {
  outbox: Pick<Outbox, 'add'>;
  assignments: Pick<RelayedDocuments<Assignment>, 'known'>;
  acknowledgements: Pick<RelayedDocuments<Acknowledgement>, 'get'>;
  now: () => number;
}

/** Takes reports from the device that made them. */
export class ReportDesk {
  readonly #deps: AcceptReportsDeps;
  readonly #verify = fastVerifyById(MAX_PARSED_KEYS);

  readonly #strangersBytes: TokenBucket;

  constructor(deps: AcceptReportsDeps) {
    this.#deps = deps;
    this.#strangersBytes = new TokenBucket({ ...STRANGERS_BYTES, now: deps.now });
  }

  /**
   * @param sender who signed the request: a device may bring just its own reports
   * @returns what the origin has acknowledged to that device so far, as far as this gateway knows
   * @throws SITECAST_DOCUMENT_MALFORMED, SITECAST_DOCUMENT_UNTRUSTED, SITECAST_NOT_YOURS, SITECAST_REVOKED (forbidden),
   *   SITECAST_RATE_LIMITED (unreachable), and what the outbox throws
   */
  async accept(sender: string, reports: readonly unknown[]): Promise<Envelope | undefined> {
    const assignment = await this.#deps.assignments.known(sender);
    if (assignment?.revoked)
      throw new SitecastError('forbidden', 'SITECAST_REVOKED', 'this device was revoked');
    if (!assignment) this.#checkStranger(reports);
    const entries = reports.map(value => this.#check(sender, value, assignment !== undefined));
    await this.#deps.outbox.add(entries);
    return this.#deps.acknowledgements.get(sender, { isForwarded: true });
  }

  /** Anybody on the LAN can be many of them. */
  #checkStranger(reports: readonly unknown[]): void {
    const isTooMuch = reports.length > MAX_STRANGERS_REPORTS_A_REQUEST;
    if (!isTooMuch && this.#strangersBytes.take(Buffer.byteLength(JSON.stringify(reports)))) return;
    throw new SitecastError(
      'unreachable',
      'SITECAST_RATE_LIMITED',
      'no assignment of this device is known here: its reports can wait',
      { hint: `Send at most ${MAX_STRANGERS_REPORTS_A_REQUEST} at a time, later.` },
    );
  }

  #check(sender: string, value: unknown, isKnown: boolean): OutboxEntry {
    const unverified = readReport(value);
    const { id, epoch, seq } = unverified.document;
    if (id !== sender) throw notYours(id);
    unverified.verify([id], this.#verify);
    const digest = createHash('sha256').update(unverified.payload).digest('hex').slice(0, 16);
    return { id, epoch, seq, digest, isKnown, envelope: envelopeSchema.parse(value) };
  }
}

/** The error for whoever speaks about another than itself. */
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
