import { freeBytesAt } from '@sitecast/shared/key-value';
import type { Room } from '../../room.ts';

/**
 * How long one answer of the file system counts, for all who ask in that time. While data is being synced, an answer can take most of
 * a millisecond, and thousands of enrolments a second ask. What is written in that time is far less than the reserve.
 */
const COUNTS_FOR_MS = 20;

/** @param freeBytesOf asks the file system */
export function diskRoom(path: string, reserveBytes: number, freeBytesOf = freeBytesAt): Room {
  let asked: { atMs: number; freeBytes: Promise<number> } | undefined;
  const freeBytes = (): Promise<number> => {
    const nowMs = performance.now();
    if (!asked || nowMs - asked.atMs >= COUNTS_FOR_MS) asked = { atMs: nowMs, freeBytes: freeBytesOf(path) };
    return asked.freeBytes;
  };
  return { freeBytes, reserveBytes, path };
}
