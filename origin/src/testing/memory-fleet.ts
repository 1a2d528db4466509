import type { FleetStore, Range, Table, Write } from '../fleet/store.ts';

/** The fleet's store in memory, for tests that are about something else; values go through JSON as on the disk. */
export class MemoryFleet implements FleetStore {
  readonly tables = new Map<Table, Map<string, string>>();

  async commit(writes: readonly Write[]): Promise<void> {
    for (const { table, key, value } of writes) {
      const rows = this.tables.get(table) ?? new Map<string, string>();
      this.tables.set(table, rows);
      if (value === undefined) rows.delete(key);
      else rows.set(key, JSON.stringify(value));
    }
  }

  async get(table: Table, key: string): Promise<unknown> {
    const text = this.tables.get(table)?.get(key);
    return text === undefined ? undefined : JSON.parse(text);
  }

  async *entries(
    table: Table,
    { prefix = '', after, isReversed = false, limit = Number.POSITIVE_INFINITY }: Range = {},
  ): AsyncIterable<[string, unknown]> {
    const rows = [...(this.tables.get(table) ?? [])]
      .filter(([key]) => key.startsWith(prefix))
      .filter(([key]) => after === undefined || (isReversed ? key < after : key > after))
      .sort(([one], [other]) => (one < other ? -1 : 1));
    if (isReversed) rows.reverse();
    for (const [key, text] of rows.slice(0, limit)) yield [key, JSON.parse(text)];
  }
}
