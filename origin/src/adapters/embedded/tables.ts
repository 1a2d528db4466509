import { keyAfter, Keyspace, type KeyValueStore, startingWith } from '@sitecast/shared/key-value';

/** The tables of the origin's database. */
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

/** Values by table and key, whatever their form. */
export interface TableStore {
  /**
   * All of the writes or none; they have reached the disk when it returns. When it throws, none of them is there, nor comes back
   * later: a copy in memory that is changed afterwards agrees with the disk.
   * @throws SITECAST_NO_SPACE, SITECAST_STATE_UNWRITABLE
   */
  commit(writes: readonly Write[]): Promise<void>;
  get(table: Table, key: string): Promise<unknown>;
  /** In the order of keys. */
  entries(table: Table, range?: Range): AsyncIterable<[string, unknown]>;
}

/** A key of several parts, none of which holds a `!`. */
export const keyOf = (...parts: readonly string[]): string => parts.join('!');

/** The tables of a key-value store, each a keyspace of its own: `!TABLE!KEY`. */
export class Tables implements TableStore {
  readonly #store: KeyValueStore;
  readonly #tables: ReadonlyMap<Table, Keyspace>;

  constructor(store: KeyValueStore) {
    this.#store = store;
    this.#tables = new Map(TABLES.map(table => [table, new Keyspace(store, `!${table}!`)]));
  }

  commit(writes: readonly Write[]): Promise<void> {
    return this.#store.commit(writes.map(({ table, ...change }) => this.#of(table).change(change)));
  }

  get(table: Table, key: string): Promise<unknown> {
    return this.#of(table).get(key);
  }

  entries(
    table: Table,
    { prefix = '', after, isReversed = false, limit }: Range = {},
  ): AsyncIterable<[string, unknown]> {
    const range = { ...startingWith(prefix), isReversed, ...(limit !== undefined && { limit }) };
    if (after !== undefined && isReversed) range.below = after;
    else if (after !== undefined) range.from = keyAfter(after);
    return this.#of(table).entries(range);
  }

  #of(table: Table): Keyspace {
    const found = this.#tables.get(table);
    if (!found) throw new Error(`there is no table ${table}`);
    return found;
  }
}

/** Whether nothing was ever written, in any table. */
export async function isEmpty(store: KeyValueStore): Promise<boolean> {
  const entries = store.entries({ ...startingWith('!'), limit: 1 })[Symbol.asyncIterator]();
  return (await entries.next()).done === true;
}
