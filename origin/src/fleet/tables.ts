import { keyAfter, Keyspace, type KeyValueStore, startingWith } from '@sitecast/shared/key-value';
import { type FleetStore, type Range, type Table, TABLES, type Write } from './store.ts';

/** The tables of the fleet's store, each a keyspace of its own: `!TABLE!KEY`. */
export class FleetTables implements FleetStore {
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
