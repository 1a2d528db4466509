import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import type { Member } from './member.ts';

const DAY_MS = 24 * 3_600_000;
/** An assignment holds for so long, and up to ten days longer. */
const HOLDS_MS = 90 * DAY_MS;
/** It is renewed once it is so old, and up to ten days older: at least 50 days before it ends. */
const RENEWED_AFTER_MS = 30 * DAY_MS;
const SPREAD_MS = 10 * DAY_MS;

/** When an assignment that is issued now was issued, and when it ends. Members that came together don't end together. */
export function validity(id: string, nowMs: number): { changedAt: string; expiresAt: string } {
  const expiresMs = nowMs + HOLDS_MS + spreadMs(id);
  return { changedAt: new Date(nowMs).toISOString(), expiresAt: new Date(expiresMs).toISOString() };
}

/** Whether the member's assignment is to be renewed when it is next asked for. */
export function isDue({ id, changedAt, expiresAt, revokedAt }: Member, nowMs: number): boolean {
  if (revokedAt !== undefined) return false;
  return expiresAt === undefined || nowMs - Date.parse(changedAt) >= RENEWED_AFTER_MS + spreadMs(id);
}

/** Whether a changed member differs only by what a renewal changes. */
export function isRenewal(before: Member, after: Member): boolean {
  const { serial, changedAt, expiresAt } = after;
  return isDeepStrictEqual({ ...before, serial, changedAt, expiresAt }, { ...after, expiresAt });
}

/** The same for a member whenever it's asked, so that nothing has to be remembered. */
function spreadMs(id: string): number {
  return (createHash('sha256').update(id).digest().readUInt32BE() / 2 ** 32) * SPREAD_MS;
}
