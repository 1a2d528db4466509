import type { Change, KeyRange, KeyValueStore } from './store.ts';

/** A part of a store: the keys that begin with one prefix. Its own keys are named without the prefix. */
export class Keyspace implements KeyValueStore {
  readonly #store: KeyValueStore;
  readonly #prefix: string;

  /** @param prefix ends with a character that no name of another keyspace holds, so that no key lies in two of them */
  constructor(store: KeyValueStore, prefix: string) {
    this.#store = store;
    this.#prefix = prefix;
  }

  get(key: string): Promise<unknown> {
    return this.#store.get(this.#prefix + key);
  }

  commit(changes: readonly Change[], options?: { isDurable?: boolean }): Promise<void> {
    return this.#store.commit(
      changes.map(change => this.change(change)),
      options,
    );
  }

  async *entries({ from, below, ...rest }: KeyRange): AsyncGenerator<[key: string, value: unknown]> {
    const range = { ...rest, from: this.#prefix + from, below: this.#prefix + below };
    for await (const [key, value] of this.#store.entries(range))
      yield [key.slice(this.#prefix.length), value];
  }

  /** The same change as the whole store names it, for a commit that spans several keyspaces. */
  change({ key, value }: Change): Change {
    return { key: this.#prefix + key, value };
  }
}
