import { AuditChainCheck, type AuditHead, EMPTY_HEAD } from '@sitecast/shared/audit';
import { SitecastError } from '@sitecast/shared/errors';
import { errorFields, type Log } from '../log.ts';
import type { AuditLog } from './audit.ts';

/** Entries that are read at one time: other work goes on between. */
const ENTRIES_A_PAGE = 1000;
const INTERVAL_MS = 6 * 3_600_000;
/** After a look that found something wrong, or failed: a log that was mended, or a disk that answers again, is noticed soon. */
const RETRY_MS = 3_600_000;
/** What is wrong with the log itself: an entry that doesn't fit, or one that can't be read any more. */
const BROKEN: ReadonlySet<string> = new Set(['SITECAST_AUDIT_BROKEN', 'SITECAST_STATE_DAMAGED']);

/**
 * The origin's own look at its audit log: whether the chain holds, and still has the entries that earlier looks have found. It finds a
 * damaged or partly restored database. Who controls the origin can deceive it: `sitecast audit --verify --expect` is for that.
 */
export class AuditSelfCheck {
  readonly #audit: AuditLog;
  readonly #log: Log;
  readonly #now: () => number;
  #seen: AuditHead = EMPTY_HEAD;
  #isBroken = false;
  #lookedMs = Number.NEGATIVE_INFINITY;
  #dueAfterMs = RETRY_MS;

  /** @param now milliseconds since 1970 */
  constructor({ audit, log, now }: { audit: AuditLog; log: Log; now: () => number }) {
    this.#audit = audit;
    this.#log = log;
    this.#now = now;
  }

  /** Whether the last look found that the chain doesn't hold, or that an entry can't be read. */
  get isBroken(): boolean {
    return this.#isBroken;
  }

  /** Looks if it's time to: every 6 hours while all is well, else every hour. @throws as `look` */
  async lookIfDue(): Promise<void> {
    // A clock that is set back must not put the next look off.
    if (Math.abs(this.#now() - this.#lookedMs) < this.#dueAfterMs) return;
    this.#lookedMs = this.#now();
    this.#dueAfterMs = RETRY_MS;
    await this.look();
    if (!this.#isBroken) this.#dueAfterMs = INTERVAL_MS;
  }

  /** Reads the whole log once. @throws what reading throws, but for damage */
  async look(): Promise<void> {
    try {
      this.#seen = await this.#read(new AuditChainCheck(this.#seen));
      this.#isBroken = false;
    } catch (error) {
      if (!(error instanceof SitecastError) || !BROKEN.has(error.code)) throw error;
      if (!this.#isBroken) this.#log.error(errorFields(error), 'the audit log is broken');
      this.#isBroken = true;
    }
  }

  /** @returns the last entry. @throws SITECAST_AUDIT_BROKEN, SITECAST_STATE_DAMAGED */
  async #read(check: AuditChainCheck): Promise<AuditHead> {
    const atFirst = this.#audit.head;
    let isMore = true;
    while (isMore) {
      const { entries } = await this.#audit.find(check.head.seq, ENTRIES_A_PAGE);
      for (const entry of entries) check.take(entry);
      isMore = entries.length > 0;
    }
    // More may have been recorded meanwhile, and read, or not yet.
    check.end(check.head.seq < atFirst.seq ? atFirst : check.head);
    return check.head;
  }
}
