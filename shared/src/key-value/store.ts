import type { SitecastError } from '../errors.ts';

/** One change of a commit; a value of undefined deletes the key. */
export interface Change {
  key: string;
  value: unknown;
}

/** Keys from `from`, inclusive, to `below`, exclusive; in the order of their UTF-8 bytes. */
export interface KeyRange {
  from: string;
  below: string;
  isReversed?: boolean;
  limit?: number;
}

/** JSON values by key. The reader of a value checks its form. */
export interface KeyValueStore {
  /** Undefined if there's none. @throws SITECAST_STATE_DAMAGED */
  get(key: string): Promise<unknown>;
  /**
   * All of the changes or none. When it returns, they have reached the disk, unless `isDurable` is false: then a power cut may
   * take them. When it throws, none of them is there, nor comes back later; only if the process ends before the next
   * commit that succeeds may a later process find all of them.
   * @throws SITECAST_NO_SPACE (noSpace), SITECAST_STATE_UNWRITABLE (unreachable)
   */
  commit(changes: readonly Change[], options?: { isDurable?: boolean }): Promise<void>;
  /** @throws SITECAST_STATE_DAMAGED */
  entries(range: KeyRange): AsyncIterable<[key: string, value: unknown]>;
}

/** The state of a database. */
export interface DatabaseState {
  /** Why nothing can be written now; undefined while all is well. */
  readonly trouble: SitecastError | undefined;
  /** What was found damaged while the database was in use. Reads go on as far as they can, and commits are taken. */
  readonly damage: SitecastError | undefined;
  /** How often it was opened anew after a write that failed. */
  readonly mendedCount: number;
}

/** The first key that can follow this one: where a range goes on that has been read up to here. */
export const keyAfter = (key: string): string => `${key}\u0000`;

/** The range of all keys with this prefix. */
export function startingWith(prefix: string): { from: string; below: string } {
  return { from: prefix, below: `${prefix}\u{10ffff}` };
}
