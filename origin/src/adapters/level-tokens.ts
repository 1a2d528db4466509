import { z } from 'zod';
import { type StoredToken, TOKEN_ROLES, type TokenStore } from '../tokens/tokens.ts';
import type { Database } from './level-database.ts';

const storedTokenSchema = z.object({
  id: z.string(),
  name: z.string(),
  role: z.enum(TOKEN_ROLES),
  hash: z.string().regex(/^[0-9a-f]{64}$/),
  createdAt: z.string(),
  expiresAt: z.string().exactOptional(),
});

/** API tokens in LevelDB. */
export class LevelTokens implements TokenStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
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

  get #tokens() {
    return this.#database.sublevel<string, unknown>('token', { valueEncoding: 'json' });
  }
}
