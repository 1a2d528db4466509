import type { FleetStore, Range, Table, Write } from '../fleet/store.ts';
import type { Database } from './level-database.ts';

const TABLES: readonly Table[] = [
  'member',
  'status',
  'inventory',
  'report',
  'outcome',
  'joinToken',
  'rollout',
  'cohort',
  'seen',
  'audit',
];

/** Registry, reports and rollouts in LevelDB: a sublevel for each table. */
export class LevelFleet implements FleetStore {
  readonly #database: Database;
  readonly #tables: Map<Table, ReturnType<typeof tableOf>>;

  constructor(database: Database) {
    this.#database = database;
    this.#tables = new Map(TABLES.map(name => [name, tableOf(database, name)]));
  }

  async commit(writes: readonly Write[]): Promise<void> {
    const batch = writes.map(({ table, key, value }) =>
      value === undefined
        ? { type: 'del' as const, key, sublevel: this.#table(table) }
        : { type: 'put' as const, key, value, sublevel: this.#table(table) },
    );
    await this.#database.batch(batch, { sync: true });
  }

  get(table: Table, key: string): Promise<unknown> {
    return this.#table(table).get(key);
  }

  entries(
    table: Table,
    { prefix = '', after, isReversed = false, limit }: Range = {},
  ): AsyncIterable<[string, unknown]> {
    const bounds = isReversed
      ? { gte: prefix, lt: after ?? `${prefix}\uffff` }
      : { ...(after === undefined ? { gte: prefix } : { gt: after }), lt: `${prefix}\uffff` };
    return this.#table(table).iterator({
      ...bounds,
      reverse: isReversed,
      ...(limit !== undefined && { limit }),
    });
  }

  #table(name: Table): ReturnType<typeof tableOf> {
    const table = this.#tables.get(name);
    if (!table) throw new RangeError(name);
    return table;
  }
}

function tableOf(database: Database, name: Table) {
  return database.sublevel<string, unknown>(name, { valueEncoding: 'json' });
}
