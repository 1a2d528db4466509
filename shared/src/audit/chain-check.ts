import { SitecastError } from '../errors.ts';
import { type AuditEntry, type AuditHead, EMPTY_HEAD, hashOfEntry } from './entry.ts';

/** Follows an audit log from its first entry, and finds altered, removed, inserted and missing entries. */
export class AuditChainCheck {
  readonly #expected: AuditHead | undefined;
  #head: AuditHead = EMPTY_HEAD;

  /** @param expected an end of this log that was noted earlier; the log must still hold it */
  constructor(expected?: AuditHead) {
    this.#expected = expected;
  }

  /** The last entry that passed the check. */
  get head(): AuditHead {
    return this.#head;
  }

  /** @throws SITECAST_AUDIT_BROKEN (untrusted); `data.seq` names the entry */
  take(entry: AuditEntry): void {
    const seq = this.#head.seq + 1;
    if (entry.seq !== seq) throw broken(seq, `entry ${seq} is missing: ${entry.seq} stands in its place`);
    if (entry.previous !== this.#head.hash)
      throw broken(seq, `entry ${seq} doesn't follow the one before it`);
    if (entry.hash !== hashOfEntry(entry)) throw broken(seq, `entry ${seq} was altered`);
    if (this.#expected?.seq === seq && this.#expected.hash !== entry.hash) {
      throw broken(
        seq,
        `entry ${seq} isn't the one that was seen earlier: the log was written anew from there on`,
      );
    }
    this.#head = { seq, hash: entry.hash };
  }

  /**
   * All entries have been taken.
   * @param told the end of the log, according to the origin
   * @throws SITECAST_AUDIT_BROKEN (untrusted)
   */
  end(told: AuditHead): void {
    const { seq, hash } = this.#head;
    if (told.seq !== seq || told.hash !== hash)
      throw broken(seq + 1, `entry ${seq + 1} is missing: the log is said to end with ${told.seq}`);
    if (this.#expected && this.#expected.seq > seq) {
      const message = `the log ends with entry ${seq}: ${this.#expected.seq} was seen earlier, so its end was cut off`;
      throw broken(seq + 1, message);
    }
  }
}

function broken(seq: number, message: string): SitecastError {
  return new SitecastError('untrusted', 'SITECAST_AUDIT_BROKEN', `the audit log doesn't hold: ${message}`, {
    hint: 'Was the origin brought back from a backup? Else somebody has written in its database.',
    data: { seq },
  });
}
