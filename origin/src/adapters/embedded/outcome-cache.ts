import type { Outcome } from '../../fleet/outcome.ts';
import type { Outcomes } from '../../rollouts/status.ts';
import type { EmbeddedDatabase } from './database.ts';
import type { RowWrite } from './rows.ts';

interface Entry {
  readonly outcomes: Map<string, Outcome>;
  isComplete: boolean;
  ready: Promise<Outcomes>;
}

/**
 * Outcomes of the rollouts under way, in memory as of each commit: every report asks for one of them. Outcomes of other rollouts are
 * read when they are asked for.
 */
export class OutcomeCache {
  readonly #database: EmbeddedDatabase;
  readonly #byRollout = new Map<string, Entry>();

  constructor(database: EmbeddedDatabase) {
    this.#database = database;
    database.onCommit(writes => {
      for (const write of writes) if (write.table === 'outcome') this.#take(write);
    });
  }

  /** Keeps a rollout's outcomes in memory from now on. @throws SITECAST_STATE_DAMAGED */
  follow(rolloutId: string): Promise<Outcomes> {
    const known = this.#byRollout.get(rolloutId);
    if (known) return known.ready;
    const outcomes = new Map<string, Outcome>();
    const entry: Entry = { outcomes, isComplete: false, ready: Promise.resolve(outcomes) };
    // Registered before the rows are read: an outcome that comes meanwhile is newer than the stored one.
    this.#byRollout.set(rolloutId, entry);
    entry.ready = this.#load(rolloutId, entry);
    return entry.ready;
  }

  forget(rolloutId: string): void {
    this.#byRollout.delete(rolloutId);
  }

  /** All outcomes of a rollout; undefined where they aren't in memory, or not all of them yet. */
  complete(rolloutId: string): Outcomes | undefined {
    const entry = this.#byRollout.get(rolloutId);
    return entry?.isComplete === true ? entry.outcomes : undefined;
  }

  /** All outcomes of a rollout, read where they aren't in memory. @throws SITECAST_STATE_DAMAGED */
  async outcomes(rolloutId: string): Promise<Outcomes> {
    return this.complete(rolloutId) ?? new Map(await this.#stored(rolloutId));
  }

  async #load(rolloutId: string, entry: Entry): Promise<Outcomes> {
    const { outcomes } = entry;
    try {
      for (const [id, outcome] of await this.#stored(rolloutId))
        if (!outcomes.has(id)) outcomes.set(id, outcome);
      entry.isComplete = true;
      return outcomes;
    } catch (error) {
      if (this.#byRollout.get(rolloutId) === entry) this.forget(rolloutId);
      throw error;
    }
  }

  async #stored(rolloutId: string): Promise<[deviceId: string, Outcome][]> {
    const found: [string, Outcome][] = [];
    const prefix = `${rolloutId}!`;
    for await (const [key, outcome] of this.#database.rows.entries('outcome', { prefix }))
      found.push([key.slice(prefix.length), outcome]);
    return found;
  }

  #take({ key, value }: Extract<RowWrite, { table: 'outcome' }>): void {
    const [rolloutId, deviceId] = partsOfOutcome(key);
    if (value) this.#byRollout.get(rolloutId)?.outcomes.set(deviceId, value);
  }
}

/** The ids in the key of an outcome. */
export function partsOfOutcome(key: string): [rolloutId: string, deviceId: string] {
  const at = key.indexOf('!');
  return [key.slice(0, at), key.slice(at + 1)];
}
