import type { KeptReports } from './status.ts';
import { keyOf } from './store.ts';

/** Reports of one device that are kept to be looked at, bytes; beyond that the oldest make way. */
export const MAX_KEPT_BYTES = 256 * 1024;
/** To how many bytes they are cut then: not with every report anew. */
export const CUT_TO_BYTES = 192 * 1024;
const SEQ_DIGITS = 16;

export const NONE_KEPT: KeptReports = { reports: 0, bytes: 0, dropped: 0 };

export function reportKey(id: string, epoch: string, seq: number): string {
  return keyOf(id, epoch, String(seq).padStart(SEQ_DIGITS, '0'));
}

/** What a report takes in the database, bytes. */
export function keptBytesOf(key: string, value: unknown): number {
  return key.length + Buffer.byteLength(JSON.stringify(value));
}

export function withReport({ reports, bytes, dropped }: KeptReports, lengthBytes: number): KeptReports {
  return { reports: reports + 1, bytes: bytes + lengthBytes, dropped };
}

export function withoutReport({ reports, bytes, dropped }: KeptReports, lengthBytes: number): KeptReports {
  return { reports: reports - 1, bytes: bytes - lengthBytes, dropped: dropped + 1 };
}
