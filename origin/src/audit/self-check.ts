import { AuditChainCheck, type AuditHead, EMPTY_HEAD } from '@sitecast/shared/audit';
import { SitecastError } from '@sitecast/shared/errors';
import { errorFields, type Log } from '../log.ts';
import type { AuditLog } from './audit.ts';

/** Entries that are read at one time: other work goes on between. */
const ENTRIES_A_PAGE = 1000;

/**
 * The origin's own look at its audit log: whether the chain holds, and still has the entries that earlier looks have found. It finds a
 * damaged or partly restored database. Who controls the origin can deceive it: `sitecast audit --verify --expect` is for that.
 */
export class AuditSelfCheck {
  readonly #audit: AuditLog;
  readonly #log: Log;
  #seen: AuditHead = EMPTY_HEAD;
  #isBroken = false;

  constructor({ audit, log }: { audit: AuditLog; log: Log }) {
    this.#audit = audit;
    this.#log = log;
  }

  /** Whether the last look found that the chain doesn't hold. */
  get isBroken(): boolean {
    return this.#isBroken;
  }

  /** Reads the whole log once. @throws what reading throws */
  async look(): Promise<void> {
    try {
      this.#seen = await this.#read(new AuditChainCheck(this.#seen));
      this.#isBroken = false;
    } catch (error) {
      if (!(error instanceof SitecastError) || error.code !== 'SITECAST_AUDIT_BROKEN') throw error;
      if (!this.#isBroken) this.#log.error(errorFields(error), 'the audit log is broken');
      this.#isBroken = true;
    }
  }

  /** @returns the last entry. @throws SITECAST_AUDIT_BROKEN */
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
