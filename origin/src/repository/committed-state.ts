import { ONLINE_ROLES } from '@sitecast/shared/signing';
import type { OnlineKeys } from '../keys/online-keys.ts';
import { errorFields, type Log } from '../log.ts';
import { type CommitPlan, commitOf } from './commit-plan.ts';
import { type Committed, loadCommitted, signersOf } from './committed.ts';
import { higherOf } from './online-roles.ts';
import { isDamage } from './rebuild.ts';
import type { RepositoryStore, VersionFloor } from './repository-store.ts';

interface CommittedStateDeps {
  published: RepositoryStore;
  keys: OnlineKeys;
  log: Log;
  /** What follows a commit of this origin, before others hear of it. Its failure doesn't undo the commit. */
  afterCommit: (plan: CommitPlan) => Promise<void>;
}

/**
 * What is published, as this origin has verified it, and how that changes. The caller lets one change run at a time. It begins each with
 * `ready`.
 */
export class CommittedState {
  readonly #deps: CommittedStateDeps;
  readonly #listeners = new Set<() => void>();
  #current: Committed | undefined;
  #floor: VersionFloor;
  /** False while a commit's end couldn't be written down: then nothing may begin before that is done. */
  #isSettled = true;

  constructor(
    deps: CommittedStateDeps,
    { current, floor }: { current: Committed | undefined; floor: VersionFloor },
  ) {
    this.#deps = deps;
    this.#current = current;
    this.#floor = floor;
  }

  /** Undefined before the first change. */
  get current(): Committed | undefined {
    return this.#current;
  }

  /** Versions that must not be given again. */
  get floor(): VersionFloor {
    return this.#floor;
  }

  get isSettled(): boolean {
    return this.#isSettled;
  }

  raiseFloor(versions: VersionFloor): void {
    this.#floor = higherOf(this.#floor, versions);
  }

  /** Calls after every commit, whichever origin made it; the function returned ends that. */
  onCommit(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Ends what the last change left unfinished, and takes over what another origin has published. @returns what is published now */
  async ready(): Promise<Committed | undefined> {
    if (!this.#isSettled) await this.#settle(undefined);
    // The other origin has used up version numbers, too.
    if (await this.notice()) await this.#settle(undefined);
    return this.#current;
  }

  /**
   * Takes over what another origin has published since this one looked. Costs one read of the timestamp where nothing has changed.
   * @returns whether there was something
   */
  async notice(): Promise<boolean> {
    const { published, keys } = this.#deps;
    const bytes = await published.timestamp();
    const known = this.#current?.timestamp;
    if (bytes === undefined || (known && Buffer.compare(bytes, known.bytes) === 0)) return false;
    const found = await loadCommitted(published).catch((error: unknown) => {
      // Nobody has published what doesn't verify. What was verified stays in force, and is repaired from here.
      if (isDamage(error)) return undefined;
      throw error;
    });
    if (!found || (known && found.timestamp.signed.version <= known.signed.version)) return false;
    this.#current = found;
    await keys.reread();
    await this.activateKeys();
    this.#tell();
    return true;
  }

  /**
   * Publishes a change, all of it or nothing.
   * @throws the store's error, if it kept the commit from happening
   */
  async commit(plan: CommitPlan): Promise<void> {
    const { published, log, afterCommit } = this.#deps;
    let failure: Error | undefined;
    try {
      await published.commit(commitOf(plan, this.#floor));
      this.#current = plan.next;
    } catch (error) {
      failure = error instanceof Error ? error : new Error(String(error));
    }
    this.#isSettled = false;
    try {
      await this.#settle(plan);
    } catch (error) {
      log.error(
        errorFields(error),
        "a change's end can't be written down: it is tried again before the next one",
      );
    }
    if (this.#current === plan.next) {
      await afterCommit(plan);
      this.#tell();
    }
    if (failure === undefined) return;
    if (this.#current !== plan.next) throw failure;
    log.error(errorFields(failure), 'a change was completed in spite of an error');
  }

  /** Keys that the published metadata names come into use, and those before them are deleted. */
  async activateKeys(): Promise<void> {
    const { keys, log } = this.#deps;
    if (!this.#current) return;
    const { root, targets } = this.#current;
    for (const role of ONLINE_ROLES) {
      const [keyId] = signersOf(role, root.signed, targets.signed).keyids;
      if (keyId !== undefined && (await keys.activate(role, keyId)))
        log.info({ subject: role, keyId }, 'a rotated key is active, the old one is deleted');
    }
  }

  /** @param plan the change that this process is about to end. Without it, the published state is read anew. */
  async #settle(plan: CommitPlan | undefined): Promise<void> {
    const { published } = this.#deps;
    const { outcome, floor } = await published.settle();
    this.#floor = floor ?? this.#floor;
    if (outcome === 'completed') this.#current = plan?.next ?? (await loadCommitted(published));
    if (outcome === 'completed' && !plan) this.#tell();
    await this.activateKeys();
    this.#isSettled = true;
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }
}
