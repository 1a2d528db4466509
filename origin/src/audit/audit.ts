import type { AuditAction, AuditEntry, AuditFilter, AuditHead } from '@sitecast/shared/audit';

/** The name under which the audit log records what no operator did. */
export const ORIGIN = 'origin';

/** Something that an operator or the controller did. */
export interface AuditEvent {
  /** Name of the API token, or `origin`. */
  by: string;
  /** `rollout.start`, `rollout.pause`, `device.enrol`, `device.revoke`, `release.publish`, … */
  action: AuditAction;
  /** `rollout:ID`, `device:ID`, `release:PRODUCT/VERSION`, `token:NAME`, `product:P`. */
  subject: string;
  /** The figures it was decided on, the options given; JSON, at most 4 KiB. */
  details?: Record<string, unknown>;
}

/** Records what is done, in the log of every operator action and decision. */
export interface Audit {
  /**
   * Records events: all of them or none, durable when this resolves. An event is recorded before what it tells of becomes visible. Several
   * origins may record at once: their entries make one chain.
   * @throws the store's error: nothing is recorded then, and what the events tell of must not be done
   */
  record(...events: readonly AuditEvent[]): Promise<void>;
}

/** The whole log: entries are only ever added, each with the hash of the one before. */
export interface AuditLog extends Audit {
  /** The last entry that is durable. */
  readonly head: AuditHead;
  /**
   * Of the entries after the one with this number those that the filter wants, in order. They are handed out as they are stored: the
   * reader checks the chain.
   * @returns besides the number of the last entry that was looked at, from which a reader that wants more goes on
   */
  find(after: number, limit: number, filter?: AuditFilter): Promise<{ entries: AuditEntry[]; after: number }>;
}
