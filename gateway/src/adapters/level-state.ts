import { SitecastError } from '@sitecast/shared/errors';
import { Level } from 'level';
import type { RecordChange, RecordRange, Records } from '../storage/records.ts';

type Database = Level<string, unknown>;

/**
 * The gateway's database, which also is the lock that keeps a second process off the data directory. After a write that
 * the disk refused, LevelDB refuses all others for good: the database is opened anew for the next one.
 */
export class LevelState {
  readonly #database: Database;
  #isBroken = false;
  #reopening: Promise<void> | undefined;

  private constructor(database: Database) {
    this.#database = database;
  }

  /**
   * @param path the database's directory; made if it isn't there
   * @param dataDirectory for the message
   * @throws SITECAST_DATA_IN_USE (conflict) where another process has it open
   */
  static async open(path: string, dataDirectory: string): Promise<LevelState> {
    const database: Database = new Level(path, { valueEncoding: 'json' });
    try {
      await database.open();
    } catch (error) {
      if (!hasCode(error, 'LEVEL_LOCKED')) throw error;
      throw new SitecastError(
        'conflict',
        'SITECAST_DATA_IN_USE',
        `another process is using the data directory ${dataDirectory}`,
        {
          hint: 'One gateway owns a data directory: stop the other one, or give another --data.',
          cause: error,
        },
      );
    }
    return new LevelState(database);
  }

  /** A room's own part; the name holds no `!`. */
  records(room: string): Records {
    const prefix = `${room}!`;
    return {
      get: async key => {
        await this.#ready();
        return this.#database.get(prefix + key);
      },
      write: (changes, isDurable) => this.#write(prefix, changes, isDurable),
      entries: range => this.#entries(prefix, range),
    };
  }

  async close(): Promise<void> {
    await this.#database.close();
  }

  async #write(prefix: string, changes: readonly RecordChange[], isDurable: boolean): Promise<void> {
    await this.#ready();
    const batch = changes.map(change =>
      'remove' in change
        ? { type: 'del' as const, key: prefix + change.key }
        : { type: 'put' as const, key: prefix + change.key, value: change.value },
    );
    try {
      await this.#database.batch(batch, { sync: isDurable });
    } catch (error) {
      this.#isBroken = true;
      throw isFull(error)
        ? new SitecastError('noSpace', 'SITECAST_NO_SPACE', 'the disk of the gateway is full', {
            cause: error,
          })
        : error;
    }
  }

  async *#entries(prefix: string, { from, below, limit }: RecordRange): AsyncGenerator<[string, unknown]> {
    await this.#ready();
    const range = { gte: prefix + from, lt: prefix + below, ...(limit === undefined ? {} : { limit }) };
    for await (const [key, value] of this.#database.iterator(range)) yield [key.slice(prefix.length), value];
  }

  async #ready(): Promise<void> {
    if (this.#isBroken) {
      this.#isBroken = false;
      this.#reopening = this.#reopen();
    }
    await this.#reopening;
  }

  async #reopen(): Promise<void> {
    try {
      await this.#database.close();
      await this.#database.open();
    } catch (error) {
      // Tried again with the next call.
      this.#isBroken = true;
      throw isFull(error)
        ? new SitecastError('noSpace', 'SITECAST_NO_SPACE', 'the disk of the gateway is full', {
            cause: error,
          })
        : error;
    }
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && (('code' in error && error.code === code) || hasCode(error.cause, code));
}

// LevelDB tells a full disk in words alone.
function isFull(error: unknown): boolean {
  return (
    error instanceof Error &&
    (/no space left on device|quota exceeded/i.test(error.message) || isFull(error.cause))
  );
}
