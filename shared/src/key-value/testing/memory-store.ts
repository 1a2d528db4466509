import type { Change, KeyRange, KeyValueStore } from '../store.ts';

/** A store in memory, for tests that are about something else; values go through JSON as on the disk. */
export class MemoryStore implements KeyValueStore {
  readonly values = new Map<string, string>();

  async get(key: string): Promise<unknown> {
    const text = this.values.get(key);
    return text === undefined ? undefined : JSON.parse(text);
  }

  async commit(changes: readonly Change[]): Promise<void> {
    for (const { key, value } of changes) {
      if (value === undefined) this.values.delete(key);
      else this.values.set(key, JSON.stringify(value));
    }
  }

  async *entries({ from, below, isReversed = false, limit }: KeyRange): AsyncGenerator<[string, unknown]> {
    const keys = [...this.values.keys()]
      .filter(key => compare(key, from) >= 0 && compare(key, below) < 0)
      .sort(compare);
    if (isReversed) keys.reverse();
    for (const key of keys.slice(0, limit)) yield [key, await this.get(key)];
  }
}

/** As LevelDB orders keys. */
function compare(one: string, other: string): number {
  return Buffer.compare(Buffer.from(one), Buffer.from(other));
}
