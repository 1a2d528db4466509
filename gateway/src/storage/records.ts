import type { KeyValueStore } from '@sitecast/shared/key-value';

/** One change of a write; a write is made as a whole or not at all. */
export type RecordChange = { key: string; value: unknown } | { key: string; remove: true };

interface RecordRange {
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
   * @throws SITECAST_NO_SPACE (noSpace), SITECAST_STATE_UNWRITABLE (unreachable): then nothing was written
   */
  write(changes: readonly RecordChange[], isDurable: boolean): Promise<void>;
  entries(range: RecordRange): AsyncIterable<[key: string, value: unknown]>;
}

/** A room's own part of a database; the name holds no `!`. */
export function recordsOf(store: KeyValueStore, room: string): Records {
  const prefix = `${room}!`;
  return {
    get: key => store.get(prefix + key),
    write: (changes, isDurable) =>
      store.commit(
        changes.map(change => ({
          key: prefix + change.key,
          value: 'remove' in change ? undefined : change.value,
        })),
        { isDurable },
      ),
    async *entries({ from, below, limit }) {
      const range = { from: prefix + from, below: prefix + below, ...(limit !== undefined && { limit }) };
      for await (const [key, value] of store.entries(range)) yield [key.slice(prefix.length), value];
    },
  };
}
