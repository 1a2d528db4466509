import type { StoredToken, TokenChange, TokenStore } from '../../tokens/token-store.ts';
import type { EmbeddedDatabase } from './database.ts';

/** API tokens in the origin's database. They are all in memory, so that a check touches no disk. */
export class EmbeddedTokenStore implements TokenStore {
  readonly #database: EmbeddedDatabase;
  readonly #byId = new Map<string, StoredToken>();

  private constructor(database: EmbeddedDatabase) {
    this.#database = database;
    database.onCommit(writes => {
      for (const write of writes) if (write.table === 'token') set(this.#byId, write.key, write.value);
    });
  }

  /** @throws SITECAST_STATE_DAMAGED */
  static async open(database: EmbeddedDatabase): Promise<EmbeddedTokenStore> {
    const store = new EmbeddedTokenStore(database);
    for await (const [id, token] of database.rows.entries('token')) store.#byId.set(id, token);
    return store;
  }

  tokens(): readonly StoredToken[] {
    return [...this.#byId.values()];
  }

  change(decide: (tokens: readonly StoredToken[]) => TokenChange): Promise<void> {
    return this.#database.transact(transaction => {
      const tokens = new Map(this.#byId);
      for (const write of transaction.allWritten('token'))
        if (write.table === 'token') set(tokens, write.key, write.value);
      const { add, revoke, event } = decide([...tokens.values()]);
      if (add) transaction.write({ table: 'token', key: add.id, value: add });
      if (revoke !== undefined) transaction.write({ table: 'token', key: revoke, value: undefined });
      transaction.record(event);
    });
  }
}

function set(tokens: Map<string, StoredToken>, id: string, token: StoredToken | undefined): void {
  if (token) tokens.set(id, token);
  else tokens.delete(id);
}
