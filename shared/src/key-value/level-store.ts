import { SitecastError } from '../errors.ts';
import { baseOf, type Numbers, numberOf, OWN_KEYS, readNumbers } from './commit-numbers.ts';
import { isClosed, lost, type Owner, readingError, writingError } from './errors.ts';
import { openingBytes } from './files-check.ts';
import { type Database, freeBytesAt, iteratorRange, openLevel } from './level.ts';
import { type Change, type DatabaseState, keyAfter, type KeyRange, type KeyValueStore } from './store.ts';
import type { Witness } from './witness.ts';

/** How many changes one write may have, of commits that wait for the disk. */
const MAX_SHARED_CHANGES = 5000;
/** How soon after a failed attempt, and how often in the background, it is tried to reopen a database that can't be written. */
const RETRY_MS = 1000;

export interface LevelStoreDeps {
  path: string;
  owner: Owner;
  witness: Witness;
  /** Free bytes of the file system of `path`. */
  freeBytes?: () => Promise<number>;
  /** Called when a write fails, and when the database can be written again. */
  onTrouble?: (error: SitecastError) => void;
  onMended?: () => void;
}

interface Commit {
  changes: readonly Change[];
  isDurable: boolean;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** A write has failed. No more writes are accepted before this is repaired. */
interface Trouble {
  error: SitecastError;
  /**
   * The values before the failed write, because that write may appear when the database is reopened. Undefined where they can't be read:
   * then only another process can continue.
   */
  undo: readonly Change[] | undefined;
  /** By `performance.now`. */
  nextTryMs: number;
}

/**
 * A LevelDB in which acknowledged commits are never lost. After a failed write LevelDB continues, but later acknowledged writes are lost,
 * because they come after a torn record of the log. So after any failed write this store accepts nothing until the database is reopened,
 * every acknowledged commit was found in it, and the failed one, if it is there, was undone. A copy in memory that is changed after each
 * commit agrees with the disk.
 *
 * Commits that arrive while the disk is busy share the next write.
 */
export class LevelStore implements KeyValueStore, DatabaseState {
  readonly #deps: LevelStoreDeps;
  #database: Database;
  #id: string;
  /** Whether both the database and the witness hold `#id`. */
  #isNumbered: boolean;
  #newest: number;
  #waiting: Commit[] = [];
  #isBusy = false;
  #work: Promise<void> = Promise.resolve();
  #trouble: Trouble | undefined;
  #mending: Promise<void> | undefined;
  #retry: NodeJS.Timeout | undefined;
  readonly #closing = new AbortController();
  #mendedCount = 0;
  #damage: SitecastError | undefined;

  /** @param numbers undefined for a database without numbers: it gets `newId` with its first commit */
  constructor(deps: LevelStoreDeps, database: Database, numbers: Numbers | undefined, newId: string) {
    this.#deps = deps;
    this.#database = database;
    this.#id = numbers?.id ?? newId;
    this.#newest = numbers?.newest ?? 0;
    this.#isNumbered = numbers !== undefined;
  }

  get trouble(): SitecastError | undefined {
    return this.#trouble?.error;
  }

  /** Aborted when the store should be closed. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  get damage(): SitecastError | undefined {
    return this.#damage;
  }

  get mendedCount(): number {
    return this.#mendedCount;
  }

  get #isClosed(): boolean {
    return this.#closing.signal.aborted;
  }

  noteDamage(damage: SitecastError): void {
    if (this.#damage) return;
    this.#damage = damage;
    this.#deps.onTrouble?.(damage);
  }

  get(key: string): Promise<unknown> {
    return this.#read(database => database.get(key));
  }

  commit(changes: readonly Change[], { isDurable = true }: { isDurable?: boolean } = {}): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ changes, isDurable, resolve, reject });
      if (!this.#isBusy) this.#work = this.#writeAll();
    });
  }

  async *entries({
    limit = Number.POSITIVE_INFINITY,
    ...range
  }: KeyRange): AsyncGenerator<[string, unknown]> {
    let left = limit;
    let { from, below } = range;
    while (left > 0) {
      const database = await this.#usable();
      try {
        const bounded = { ...range, from, below, ...(Number.isFinite(left) && { limit: left }) };
        for await (const [key, value] of database.iterator(iteratorRange(bounded))) {
          if (range.isReversed === true) below = key;
          else from = keyAfter(key);
          left -= 1;
          yield [key, value];
        }
        return;
      } catch (error) {
        // The database was reopened meanwhile: reading continues after the last key.
        if (!isClosed(error) || this.#isClosed) throw this.#unread(error);
      }
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    clearTimeout(this.#retry);
    await this.#work;
    await this.#mending?.catch(() => undefined);
    try {
      await this.#deps.witness.close();
    } finally {
      await this.#database.close();
    }
  }

  async #writeAll(): Promise<void> {
    this.#isBusy = true;
    while (this.#waiting.length > 0) {
      const commits = this.#nextCommits();
      try {
        await this.#write(commits);
        for (const { resolve } of commits) resolve();
      } catch (error) {
        for (const { reject } of commits) reject(error);
      }
    }
    this.#isBusy = false;
  }

  #nextCommits(): Commit[] {
    let count = 0;
    let changes = 0;
    for (const commit of this.#waiting) {
      changes += commit.changes.length;
      if (count > 0 && changes > MAX_SHARED_CHANGES) break;
      count += 1;
    }
    return this.#waiting.splice(0, count);
  }

  async #write(commits: readonly Commit[]): Promise<void> {
    if (this.#isClosed) throw stopping();
    if (this.#trouble) await this.#mend();
    const changes = commits.flatMap(commit => commit.changes);
    const isDurable = commits.some(commit => commit.isDurable);
    try {
      await this.#batch(changes, isDurable);
    } catch (cause) {
      throw await this.#fell(changes, cause);
    }
    // The commit is written. If it can't be noted, the next one waits.
    if (isDurable) await this.#note().catch((cause: unknown) => this.#fell([], cause));
  }

  async #batch(changes: readonly Change[], isDurable: boolean): Promise<void> {
    const numbers = isDurable ? await this.#numbers() : [];
    const operations = [...changes, ...numbers].map(({ key, value }) =>
      value === undefined ? { type: 'del' as const, key } : { type: 'put' as const, key, value },
    );
    await this.#database.batch(operations, { sync: isDurable });
    if (!isDurable) return;
    this.#newest += 1;
    this.#isNumbered = true;
  }

  async #numbers(): Promise<Change[]> {
    const { witness } = this.#deps;
    // The witness is written before the first number, because a number without a witness counts as a loss.
    if (!witness.hasBegun) await witness.begin(this.#id, this.#newest);
    const number = numberOf(this.#newest + 1);
    return this.#isNumbered ? [number] : [baseOf(this.#id, this.#newest), number];
  }

  async #note(): Promise<void> {
    this.#deps.witness.note(this.#newest);
  }

  /** @returns the error for its callers */
  async #fell(changes: readonly Change[], cause: unknown): Promise<SitecastError> {
    const { owner, onTrouble } = this.#deps;
    const error = writingError(cause, owner);
    this.#trouble = { error, undo: await this.#before(changes).catch(() => undefined), nextTryMs: 0 };
    onTrouble?.(error);
    this.#retryLater();
    return error;
  }

  /** The values before the failed write: LevelDB still reads them. */
  async #before(changes: readonly Change[]): Promise<Change[]> {
    const keys = [...new Set(changes.map(({ key }) => key))];
    const values = await this.#database.getMany(keys);
    return keys.map((key, at) => ({ key, value: values[at] }));
  }

  #retryLater(): void {
    if (this.#isClosed) return;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => {
      this.#mend().catch(() => this.#retryLater());
    }, RETRY_MS).unref();
  }

  /** @throws while it can't be repaired */
  async #mend(): Promise<void> {
    const trouble = this.#trouble;
    if (!trouble) return;
    this.#mending ??= this.#putRight(trouble).finally(() => {
      this.#mending = undefined;
    });
    await this.#mending;
  }

  async #putRight(trouble: Trouble): Promise<void> {
    const { undo, error, nextTryMs } = trouble;
    if (!undo || performance.now() < nextTryMs) throw error;
    // Until there is space, the open handle still serves reads.
    if (error.kind === 'noSpace' && !(await this.#hasRoom())) throw error;
    try {
      await this.#reopen(undo);
    } catch (cause) {
      trouble.error = writingError(cause, this.#deps.owner);
      trouble.nextTryMs = performance.now() + RETRY_MS;
      throw trouble.error;
    }
    this.#trouble = undefined;
    this.#mendedCount += 1;
    clearTimeout(this.#retry);
    this.#deps.onMended?.();
  }

  async #reopen(undo: readonly Change[]): Promise<void> {
    const { path, owner, witness } = this.#deps;
    await this.#database.close();
    this.#database = await openLevel(path, owner);
    await this.#demandAll();
    if (undo.length > 0) await this.#batch(undo, true);
    if (witness.hasBegun) await this.#note();
  }

  async #hasRoom(): Promise<boolean> {
    const { path, freeBytes = () => freeBytesAt(path) } = this.#deps;
    return (await freeBytes()) >= (await openingBytes(path));
  }

  /** @throws SITECAST_STATE_LOST if an acknowledged commit is missing */
  async #demandAll(): Promise<void> {
    if (!this.#isNumbered) return;
    const own = this.#database.iterator(iteratorRange(OWN_KEYS));
    const numbers = await readNumbers(own, this.#newest);
    const missing = numbers?.missing ?? [this.#newest];
    if (missing.length === 0) return;
    const what = `after a failed write, ${missing.length} commits that were acknowledged can't be found`;
    throw lost(this.#deps.owner, what, { missing: missing.length });
  }

  async #read<T>(act: (database: Database) => Promise<T>): Promise<T> {
    for (;;) {
      const database = await this.#usable();
      try {
        return await act(database);
      } catch (error) {
        if (isClosed(error) && !this.#isClosed) continue;
        throw this.#unread(error);
      }
    }
  }

  #unread(error: unknown): unknown {
    const read = readingError(error, this.#deps.owner);
    if (read instanceof SitecastError && read.code === 'SITECAST_STATE_DAMAGED') this.noteDamage(read);
    return read;
  }

  /** The handle for reading. If there is none, the database is opened. */
  async #usable(): Promise<Database> {
    await this.#mending?.catch(() => undefined);
    if (this.#database.status !== 'open' && !this.#isClosed) await this.#mend();
    return this.#database;
  }
}

function stopping(): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_STOPPING', 'this process is being stopped');
}
