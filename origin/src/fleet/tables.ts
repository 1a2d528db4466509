import { type Change, type KeyValueStore, startingWith } from '@sitecast/shared/key-value';
import type { FleetStore, Range, Table, Write } from './store.ts';

/** The tables of the fleet's store, each under a prefix of its own: `!TABLE!KEY`. */
export class FleetTables implements FleetStore {
  readonly #store: KeyValueStore;

  constructor(store: KeyValueStore) {
    this.#store = store;
  }

  commit(writes: readonly Write[]): Promise<void> {
    const changes: Change[] = writes.map(({ table, key, value }) => ({ key: prefixOf(table) + key, value }));
    return this.#store.commit(changes);
  }

  get(table: Table, key: string): Promise<unknown> {
    return this.#store.get(prefixOf(table) + key);
  }

  async *entries(
    table: Table,
    { prefix = '', after, isReversed = false, limit }: Range = {},
  ): AsyncGenerator<[string, unknown]> {
    const own = prefixOf(table);
    const range = startingWith(own + prefix);
    if (after !== undefined && isReversed) range.below = own + after;
    else if (after !== undefined) range.from = `${own}${after}\u0000`;
    const entries = this.#store.entries({ ...range, isReversed, ...(limit !== undefined && { limit }) });
    for await (const [key, value] of entries) yield [key.slice(own.length), value];
  }
}

function prefixOf(table: Table): string {
  return `!${table}!`;
}

/** Whether nothing was ever written, in any table. */
export async function isEmpty(store: KeyValueStore): Promise<boolean> {
  const entries = store.entries({ ...startingWith('!'), limit: 1 })[Symbol.asyncIterator]();
  return (await entries.next()).done === true;
}
