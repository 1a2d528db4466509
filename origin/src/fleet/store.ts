/** What the database holds, by table. */
export const TABLES = [
  'member',
  'status',
  'inventory',
  'report',
  'outcome',
  'joinToken',
  'token',
  'rollout',
  'cohort',
  'seen',
  'presence',
  'audit',
] as const;
export type Table = (typeof TABLES)[number];

/** One change; a value of undefined deletes. */
export interface Write {
  table: Table;
  key: string;
  value: unknown;
}

export interface Range {
  /** Keys that begin with it. */
  prefix?: string;
  /** Keys after this one, in the direction of reading. */
  after?: string;
  isReversed?: boolean;
  limit?: number;
}

/** Where registry, tokens, reports, rollouts and the audit log are kept. Values are JSON; whoever reads them checks their form. */
export interface FleetStore {
  /**
   * All of the writes or none; they have reached the disk when it returns. When it throws, none of them is there, nor comes back
   * later: what's in memory beside it agrees with it, where that is changed afterwards.
   * @throws SITECAST_NO_SPACE, SITECAST_STATE_UNWRITABLE
   */
  commit(writes: readonly Write[]): Promise<void>;
  get(table: Table, key: string): Promise<unknown>;
  /** In the order of keys. */
  entries(table: Table, range?: Range): AsyncIterable<[string, unknown]>;
}

/** The table's name is the first part of a message about a value that can't be read. */
export const keyOf = (...parts: readonly string[]): string => parts.join('!');
