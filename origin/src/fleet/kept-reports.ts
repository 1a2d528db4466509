import type { ReportPlace } from './fleet-store.ts';
import type { KeptReports } from './status.ts';

/** Reports of one device that are kept to be looked at, bytes; beyond that the oldest make way. */
export const MAX_KEPT_BYTES = 256 * 1024;
/** To how many bytes they are cut then: not with every report anew. */
export const CUT_TO_BYTES = 192 * 1024;
/** What a report takes besides its id, its epoch and its value, bytes: its number, and what parts them. */
const PLACE_BYTES = 18;

export const NONE_KEPT: KeptReports = { reports: 0, bytes: 0, dropped: 0 };

/** What a report takes in the database, bytes. */
export function keptBytesOf({ id, epoch }: Pick<ReportPlace, 'id' | 'epoch'>, report: unknown): number {
  return id.length + epoch.length + PLACE_BYTES + Buffer.byteLength(JSON.stringify(report));
}

export function withReport({ reports, bytes, dropped }: KeptReports, lengthBytes: number): KeptReports {
  return { reports: reports + 1, bytes: bytes + lengthBytes, dropped };
}

export function withoutReport({ reports, bytes, dropped }: KeptReports, lengthBytes: number): KeptReports {
  return { reports: reports - 1, bytes: bytes - lengthBytes, dropped: dropped + 1 };
}
