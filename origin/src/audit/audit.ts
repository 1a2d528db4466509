import type { Write } from '../fleet/store.ts';

/** Who did what no operator did. */
export const ORIGIN = 'origin';

/** Something that an operator or the controller did. */
export interface AuditEvent {
  /** Name of the API token, or `origin`. */
  by: string;
  /** `rollout.start`, `rollout.pause`, `device.enrol`, `device.revoke`, `release.publish`, … */
  action: string;
  /** `rollout:ID`, `device:ID`, `release:PRODUCT/VERSION`, `token:NAME`, `product:P`. */
  subject: string;
  /** The figures it was decided on, the options given; JSON, at most 4 KiB. */
  details?: Record<string, unknown>;
}

export interface Audit {
  /**
   * Durable when it resolves. It's recorded before what it tells becomes visible: nothing is ever done and not told.
   * @param events one, or several that are there together or not at all
   * @param besides committed with them: all are there, or none
   */
  record(events: AuditEvent | readonly AuditEvent[], besides?: readonly Write[]): Promise<void>;
}
