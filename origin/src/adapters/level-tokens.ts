import { SitecastError } from '@sitecast/shared/errors';
import { Level } from 'level';
import { z } from 'zod';
import { type StoredToken, TOKEN_ROLES, type TokenStore } from '../tokens/tokens.ts';

const storedTokenSchema = z.object({
  id: z.string(),
  name: z.string(),
  role: z.enum(TOKEN_ROLES),
  hash: z.string().regex(/^[0-9a-f]{64}$/),
  createdAt: z.string(),
  expiresAt: z.string().exactOptional(),
});

/** Tokens in LevelDB, which also is the lock that keeps a second process off the data directory. */
export class LevelTokens implements TokenStore {
  readonly #database: Level<string, unknown>;

  private constructor(database: Level<string, unknown>) {
    this.#database = database;
  }

  /**
   * @param path the database's directory; created if it isn't there
   * @param dataDirectory for the message
   * @throws SITECAST_DATA_IN_USE (conflict) where another process has it open
   */
  static async open(path: string, dataDirectory: string): Promise<LevelTokens> {
    const database = new Level<string, unknown>(path, { valueEncoding: 'json' });
    try {
      await database.open();
    } catch (error) {
      if (!isLocked(error)) throw error;
      throw new SitecastError(
        'conflict',
        'SITECAST_DATA_IN_USE',
        `another process is using the data directory ${dataDirectory}`,
        {
          hint: 'One origin owns a data directory: stop the other one, or give another --data.',
          cause: error,
        },
      );
    }
    return new LevelTokens(database);
  }

  async all(): Promise<StoredToken[]> {
    const values = await this.#tokens.values().all();
    return values.map(value => storedTokenSchema.parse(value));
  }

  async put(token: StoredToken): Promise<void> {
    await this.#database.batch([{ type: 'put', key: token.id, value: token, sublevel: this.#tokens }], {
      sync: true,
    });
  }

  async remove(id: string): Promise<void> {
    await this.#database.batch([{ type: 'del', key: id, sublevel: this.#tokens }], { sync: true });
  }

  async close(): Promise<void> {
    await this.#database.close();
  }

  get #tokens() {
    return this.#database.sublevel<string, unknown>('token', { valueEncoding: 'json' });
  }
}

function isLocked(error: unknown): boolean {
  return (
    error instanceof Error &&
    error.cause instanceof Error &&
    'code' in error.cause &&
    error.cause.code === 'LEVEL_LOCKED'
  );
}
