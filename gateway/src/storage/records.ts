/** One change of a write; a write is made as a whole or not at all. */
export type RecordChange = { key: string; value: unknown } | { key: string; remove: true };

export interface RecordRange {
  /** Keys from this one on, itself included. */
  from: string;
  /** Keys below this one. */
  below: string;
  limit?: number;
}

/** Small JSON values by key, in the order of their keys: a room's own part of the gateway's database. */
export interface Records {
  /** Undefined if there's none. */
  get(key: string): Promise<unknown>;
  /**
   * @param isDurable whether the write survives a power cut once this returns
   * @throws SITECAST_NO_SPACE (noSpace): then nothing was written
   */
  write(changes: readonly RecordChange[], isDurable: boolean): Promise<void>;
  entries(range: RecordRange): AsyncIterable<[key: string, value: unknown]>;
}

/** The range of all keys that begin so. */
export function startingWith(prefix: string): { from: string; below: string } {
  return { from: prefix, below: `${prefix}\u{10ffff}` };
}
