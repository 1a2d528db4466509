import { z } from 'zod';
import type { Change } from './store.ts';

/** Prefix of the database's own keys. No other key begins with it. */
const OWN = '#';
const BASE_KEY = `${OWN}base`;
const COMMIT_PREFIX = `${OWN}commit!`;
/**
 * How many of the last commits are numbered: more than LevelDB's two logs, of 4 MiB each, can hold. Older ones lie in tables, which have
 * checksums of their own.
 */
const KEPT_COMMITS = 65_536;

const baseSchema = z.object({
  id: z.string(),
  /** The commits after this one are numbered without a gap. */
  from: z.int().min(0),
});

/** How far a database has got, by its own numbers. */
export interface Numbers {
  id: string;
  /** Number of the newest commit. */
  newest: number;
  /** Numbers of commits that must be there and are missing; lowest first. */
  missing: number[];
}

/** The number of a commit, which is part of it. LevelDB has a batch as a whole or not at all: where the number is missing, all of it is. */
export function numberOf(commit: number): Change {
  return { key: keyOf(commit), value: commit };
}

/** Part of the first commit, and of the first one after a loss that was accepted: where the numbers begin. */
export function baseOf(id: string, from: number): Change {
  return { key: BASE_KEY, value: { id, from } };
}

/**
 * Reads the numbers back.
 * @param entries all of the database's own, in order
 * @param noted the number up to which commits must be there
 * @returns undefined for a database that an earlier version wrote, or an empty one
 */
export async function readNumbers(
  entries: AsyncIterable<[key: string, value: unknown]>,
  noted: number,
): Promise<Numbers | undefined> {
  let base: z.infer<typeof baseSchema> | undefined;
  const present = new Set<number>();
  let newest = 0;
  for await (const [key, value] of entries) {
    if (key === BASE_KEY) base = baseSchema.safeParse(value).data;
    else if (typeof value === 'number' && key === keyOf(value)) {
      present.add(value);
      newest = Math.max(newest, value);
    }
  }
  if (!base) return undefined;
  newest = Math.max(newest, base.from);
  const last = Math.max(newest, noted);
  const missing: number[] = [];
  for (let commit = Math.max(base.from, last - KEPT_COMMITS) + 1; commit <= last; commit += 1)
    if (!present.has(commit)) missing.push(commit);
  return { id: base.id, newest, missing };
}

/** The range of the database's own keys. */
export const OWN_KEYS = { from: OWN, below: `${OWN}\u{10ffff}` };

function keyOf(commit: number): string {
  return COMMIT_PREFIX + (commit % KEPT_COMMITS).toString(16).padStart(4, '0');
}
