/** What the fleet's half of the database holds, by table. */
export type Table =
  | 'member'
  | 'status'
  | 'inventory'
  | 'report'
  | 'outcome'
  | 'joinToken'
  | 'rollout'
  | 'cohort'
  | 'seen'
  | 'audit';

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

/**
 * Where registry, reports and rollouts are kept. Values are JSON; whoever reads them checks their form.
 * Errors are the database's own; after one nothing of a commit is there, or all of it.
 */
export interface FleetStore {
  /** All of the writes or none; they have reached the disk when it returns. */
  commit(writes: readonly Write[]): Promise<void>;
  get(table: Table, key: string): Promise<unknown>;
  /** In the order of keys. */
  entries(table: Table, range?: Range): AsyncIterable<[string, unknown]>;
}

/** The table's name is the first part of a message about a value that can't be read. */
export const keyOf = (...parts: readonly string[]): string => parts.join('!');
