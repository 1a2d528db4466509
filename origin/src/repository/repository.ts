import { SitecastError } from '@sitecast/shared/errors';
import { type KeyPair, ONLINE_ROLES, type OnlineRole } from '@sitecast/shared/signing';
import type { TufKey } from '@sitecast/shared/trust';
import pLimit from 'p-limit';
import type { KeyStore } from '../keys/key-store.ts';
import { OnlineKeys } from '../keys/online-keys.ts';
import { errorFields, type Log } from '../log.ts';
import type { ChunkStaging, FileStaging } from '../staging/ports.ts';
import { type AdoptedState, planAdoption } from './adopt.ts';
import { type Change, type ChangeResult, planChange, readGiven } from './change.ts';
import type { LackingRelease } from './check-releases.ts';
import { type ClockDoubt, ClockLeaps, demandClock, issuedMsOf } from './clock.ts';
import { commitOf, type CommitPlan } from './commit-plan.ts';
import { type Committed, loadCommitted, signersOf, versionsOf } from './committed.ts';
import type { DamageBook } from './damage.ts';
import { type PublishedFile, referencedBy } from './listing.ts';
import { changedRoles, floorBeyond, higherOf, NO_FLOOR } from './online-roles.ts';
import { OnlineSigner } from './online-signer.ts';
import { PublishedContent } from './published-content.ts';
import { isDamage, readRemains, type Remains, stillDamaged, withoutOnlineRoles } from './rebuild.ts';
import { changeEmpty, notInitialised } from './refusal.ts';
import { repairMetadata } from './repair.ts';
import type { PublishedChunks, RepositoryStore, VersionFloor } from './repository-store.ts';
import type { Role } from './roles.ts';

interface RepositoryDeps {
  published: RepositoryStore;
  publishedChunks: PublishedChunks;
  chunks: ChunkStaging;
  staged: FileStaging;
  keyStore: KeyStore;
  now: () => number;
  /** A clock that nobody sets; milliseconds. */
  elapsedMs?: () => number;
  /** The day that an operator has vouched for, as `2026-11-30`: see `clockDoubt`. */
  acceptedDay?: string | undefined;
  log: Log;
}

/**
 * The repository: what is published, and the only way to change it. Changes and renewals run one after the other.
 */
export class Repository {
  readonly keys: OnlineKeys;
  readonly content: PublishedContent;
  readonly #deps: RepositoryDeps;
  readonly #signer: OnlineSigner;
  readonly #serial = pLimit(1);
  readonly #listeners = new Set<() => void>();
  #committed: Committed | undefined;
  #floor: VersionFloor = NO_FLOOR;
  /** False while a commit's end couldn't be written down: then nothing may begin before that is done. */
  #isSettled = true;

  private constructor(deps: RepositoryDeps, keys: OnlineKeys, leaps: ClockLeaps) {
    this.#deps = deps;
    this.content = new PublishedContent(deps, () => this.#committed);
    this.#signer = new OnlineSigner({ ...deps, leaps, keys });
    this.keys = keys;
  }

  /**
   * Ends what an earlier process left unfinished, and reads what is published. Damaged metadata that is the origin's own to sign
   * is signed anew.
   * @throws SITECAST_REPOSITORY_DAMAGED
   */
  static async open(deps: RepositoryDeps): Promise<Repository> {
    const { published, keyStore, log } = deps;
    const { outcome, floor, leap } = await published.settle();
    if (outcome === 'undone' || outcome === 'completed')
      log.warn({ outcome }, 'an interrupted change was settled');
    const found = await loadCommitted(published).catch(async (error: unknown) => {
      // Without the version numbers that are used up nothing can be signed.
      const remains = isDamage(error) && floor ? await readRemains(published) : undefined;
      if (!remains) throw error;
      return { ...remains, damage: error };
    });
    const keys = await OnlineKeys.open(keyStore, { mayCreate: found === undefined });
    const issuedMs = found && 'timestamp' in found ? issuedMsOf(found.timestamp) : (leap?.issuedMs ?? 0);
    const leaps = new ClockLeaps(deps.elapsedMs ?? (() => performance.now()), leap, issuedMs);
    const repository = new Repository(deps, keys, leaps);
    repository.#floor = floor ?? floorBeyond(found);
    if (found && !floor) log.error({ floor: repository.#floor }, 'the journal is lost: versions leap');
    if (found && 'damage' in found) await repository.#rebuild(found);
    else repository.#committed = found;
    await repository.#activateKeys();
    return repository;
  }

  /** What is published; undefined before the first change. */
  get committed(): Committed | undefined {
    return this.#committed;
  }

  /** The bytes of metadata in force; undefined for other versions. */
  metadataInForce(role: Role, version: number): Uint8Array | undefined {
    const metadata = this.#committed?.[role];
    return metadata?.signed.version === version ? metadata.bytes : undefined;
  }

  /** The root that the repository began with. */
  firstRoot(): Promise<Buffer | undefined> {
    return this.#deps.published.metadata('root', 1);
  }

  /** What isn't as it was published any more. */
  get damage(): DamageBook {
    return this.content.damage;
  }

  get isSettled(): boolean {
    return this.#isSettled;
  }

  /** Why the clock isn't believed; undefined if it is. */
  get clockDoubt(): ClockDoubt | undefined {
    return this.#signer.clockDoubt(this.#committed);
  }

  /** The roles that can't be signed for want of their keys, and what is wrong with each. */
  get missingKeys(): { role: OnlineRole; problem: string }[] {
    return this.#committed ? this.#signer.missingKeys(this.#committed) : [];
  }

  /**
   * Checks a change and publishes it, all of it or nothing. Submitting the same bytes again does nothing and succeeds.
   * @throws the codes of docs/ERRORS.md under "Publishing"; nothing has changed then
   */
  submit(change: Change): Promise<ChangeResult> {
    return this.#serial(() => this.#submit(change));
  }

  /**
   * Signs anew what is due among the origin's own roles, as far as their keys are there.
   * @throws SITECAST_ONLINE_KEY_MISSING, once the others are signed; SITECAST_CLOCK_AHEAD, SITECAST_CLOCK_NEVER_SET
   */
  renew(): Promise<void> {
    return this.#serial(async () => {
      await this.#ensureSettled();
      const previous = this.#committed;
      if (!previous) return;
      const { root, targets } = previous;
      const wanted = { root, targets, previous, floor: this.#floor };
      const { next, unsigned, ...signed } = await this.#signer.sign(wanted);
      const roles = changedRoles(previous, next);
      if (roles.length > 0) {
        await this.#commit({ previous, next, ...signed, chunks: new Uint8Array(), floor: this.#floor });
        this.#deps.log.info({ roles, versions: this.versions() }, 'signed anew');
      }
      for (const role of unsigned) this.#signer.require(role, next);
    });
  }

  /**
   * Publishes files of the rollouts role, each in place of the one of its name; all of them or nothing.
   * @param filesByTarget by target name, as in `rollouts/camera.json`
   * @throws SITECAST_NOT_INITIALISED, SITECAST_ONLINE_KEY_MISSING, SITECAST_METADATA_TOO_LARGE
   */
  publishRollouts(filesByTarget: ReadonlyMap<string, Buffer>): Promise<void> {
    return this.#serial(async () => {
      await this.#ensureSettled();
      const previous = this.#committed;
      if (!previous) throw notInitialised();
      const { root, targets } = previous;
      const wanted = { root, targets, previous, floor: this.#floor, rollouts: filesByTarget };
      const { next, ...signed } = await this.#signer.sign(wanted);
      await this.#commit({ previous, next, ...signed, chunks: new Uint8Array(), floor: this.#floor });
    });
  }

  /**
   * Signs no version up to these again: clients have seen them, though this store doesn't know of it. The store remembers the
   * floor once something is published after this call.
   * @param issuedMs when the timestamp among them was issued
   */
  raiseFloor(versions: VersionFloor, issuedMs: number): Promise<void> {
    return this.#serial(async () => {
      await this.#ensureSettled();
      this.#signer.noteIssued(issuedMs);
      this.#floor = higherOf(this.#floor, versions);
    });
  }

  /**
   * Publishes a state that was published before and is lost here, together with the rollouts that are deferred. The origin signs it
   * anew, unless root or targets name keys that it doesn't have: then it is published as others have seen it. Target files and
   * chunks lie in staging, as far as any are left.
   * @returns releases that lack chunks, and names of files that are lost
   * @throws as `submit`
   */
  adopt(state: AdoptedState): Promise<{ lacking: LackingRelease[]; lost: string[] }> {
    return this.#serial(async () => {
      await this.#ensureSettled();
      const previous = this.#committed;
      if (!previous) throw notInitialised();
      const { plan, change, isSignedHere } = await planAdoption(this.#planDeps(), previous, state);
      await this.#commit(plan);
      await this.#forgetStaged(change.newFiles);
      this.#deps.log.info(
        { versions: this.versions(), isSignedHere },
        'caught up with what others have seen',
      );
      const { lacking, lost } = change;
      return { lacking, lost: lost.map(({ name }) => name) };
    });
  }

  /**
   * Keeps rollout files until all keys are there that publishing them takes. They go out with the next state that is signed, and
   * count as published until then.
   */
  deferRollouts(filesByTarget: ReadonlyMap<string, Buffer>): Promise<void> {
    return this.#serial(() => this.#deps.published.deferRollouts(filesByTarget));
  }

  /** Rollout files that are decided and not published yet, by target name. */
  deferredRollouts(): Promise<ReadonlyMap<string, Buffer>> {
    return this.#deps.published.deferredRollouts();
  }

  /**
   * Puts staged chunks and files in the place of those that published releases have lost. Files come first: an index names chunks.
   * @returns how many chunks, and the names of the files
   */
  repair(): Promise<{ chunks: number; files: string[] }> {
    return this.#serial(async () => {
      return this.#committed ? await this.content.repair(this.#committed) : { chunks: 0, files: [] };
    });
  }

  /**
   * Writes the metadata in force anew if the disk has spoilt it.
   * @returns the roles
   */
  repairMetadata(): Promise<Role[]> {
    return this.#serial(async () => {
      await this.#ensureSettled();
      return this.#committed ? await repairMetadata(this.#deps.published, this.#committed) : [];
    });
  }

  /**
   * Signs with the key that the published metadata names for a role.
   * @throws SITECAST_NOT_INITIALISED, SITECAST_ONLINE_KEY_MISSING, SITECAST_CLOCK_AHEAD, SITECAST_CLOCK_NEVER_SET
   */
  signerOf(role: OnlineRole): KeyPair {
    if (!this.#committed) throw notInitialised();
    return this.#signer.require(role, this.#committed);
  }

  /** @throws what `publishRollouts` would throw before it has done anything */
  demandRolloutsSigner(): void {
    for (const role of ['rollouts', 'snapshot', 'timestamp'] as const) this.signerOf(role);
  }

  /** Calls after every commit; the function returned ends that. */
  onCommit(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Makes a pending key for a role, or returns the pending one. */
  prepareKey(role: OnlineRole): Promise<TufKey> {
    return this.#serial(async () => (await this.keys.prepare(role)).key);
  }

  /**
   * Deletes what was staged before `stagedBeforeMs`, and files that the metadata stopped referring to.
   * @throws SITECAST_CLOCK_AHEAD, SITECAST_CLOCK_NEVER_SET: by such a clock everything is old
   */
  sweep(stagedBeforeMs: number): Promise<void> {
    return this.#serial(async () => {
      await this.#ensureSettled();
      demandClock(this.clockDoubt);
      const { published, chunks, staged, now, log } = this.#deps;
      const removed = {
        chunks: await chunks.prune(stagedBeforeMs),
        files: await staged.prune(stagedBeforeMs),
        superseded: this.#committed ? await published.prune(referencedBy(this.#committed), now()) : 0,
      };
      if (Object.values(removed).some(count => count > 0)) log.info({ removed }, 'leftovers removed');
    });
  }

  versions(): Partial<Record<Role, number>> {
    return this.#committed ? versionsOf(this.#committed) : {};
  }

  /** Resolves when no change is under way any more. */
  async idle(): Promise<void> {
    await this.#serial(() => undefined);
  }

  async #submit({ isDryRun, beforeCommit, ...change }: Change): Promise<ChangeResult> {
    if (change.root === undefined && change.targets === undefined) throw changeEmpty();
    await this.#ensureSettled();
    // Before anything is compared with it: a clock that is wrong would be blamed on the change.
    demandClock(this.clockDoubt);
    const previous = this.#committed;
    const given = readGiven(change, previous);
    if (previous && !given.root && !given.targets) {
      const nothing = { added: [], removed: [], products: [] };
      return { versions: versionsOf(previous), ...nothing, isAlreadyDone: true };
    }
    const plan = await planChange(this.#planDeps(), previous, given);
    const { added, removed, products, newFiles } = plan.change;
    const versions = versionsOf(plan.next);
    const result = { versions, added, removed, products, isAlreadyDone: false };
    if (isDryRun === true) return result;

    await beforeCommit?.(result);
    await this.#commit(plan);
    await this.#forgetStaged(newFiles);
    this.#deps.log.info(result, 'published');
    return result;
  }

  #planDeps() {
    const { published, staged, chunks, now } = this.#deps;
    const readPublished = (file: PublishedFile) => this.content.read(file);
    const own = { keys: this.keys, signer: this.#signer, floor: this.#floor };
    return { published, staged, chunks, now, readPublished, ...own };
  }

  /** They are published by now: a copy that stays in staging is pruned one day. */
  async #forgetStaged(files: readonly { sha256: string }[]): Promise<void> {
    for (const { sha256 } of files) {
      await this.#deps.staged
        .remove(sha256)
        .catch((error: unknown) => this.#deps.log.warn(errorFields(error), 'left in staging'));
    }
  }

  async #commit(plan: CommitPlan): Promise<void> {
    const { published, log } = this.#deps;
    let failure: Error | undefined;
    try {
      await published.commit(commitOf(plan));
      this.#committed = plan.next;
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
    if (this.#committed === plan.next) await this.#committedNow(plan);
    if (failure === undefined) return;
    if (this.#committed !== plan.next) throw failure;
    log.error(errorFields(failure), 'a change was completed in spite of an error');
  }

  async #rebuild({
    root,
    targets,
    rollouts,
    issuedMs,
    damage,
  }: Remains & { damage: unknown }): Promise<void> {
    const { log } = this.#deps;
    const rolloutsTargets = rollouts.signed.targets;
    this.#signer.noteIssued(issuedMs);
    const wanted = { root, targets, previous: undefined, rolloutsTargets, floor: this.#floor };
    const { next, leap } = await this.#signer.sign(wanted).catch((error: unknown) => {
      throw error instanceof SitecastError ? stillDamaged(damage, error) : error;
    });
    const previous = withoutOnlineRoles(next);
    await this.#commit({
      previous,
      next,
      targetFiles: [],
      leap,
      chunks: new Uint8Array(),
      floor: this.#floor,
    });
    this.damage.foundFiles += 1;
    const fields = { ...errorFields(damage), versions: this.versions() };
    log.error(fields, 'metadata was damaged: it was signed anew');
  }

  /** What follows a commit. Its failure doesn't undo the commit. */
  async #committedNow(plan: CommitPlan): Promise<void> {
    await this.#signer.committed(plan);
    if (plan.previous?.targets !== plan.next.targets) await this.content.keepCopies(plan.next);
    this.#tell();
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }

  async #ensureSettled(): Promise<void> {
    if (!this.#isSettled) await this.#settle(undefined);
  }

  /** @param plan the change that this process is about to end. Without it, the published state is read anew. */
  async #settle(plan: CommitPlan | undefined): Promise<void> {
    const { published } = this.#deps;
    const { outcome, floor } = await published.settle();
    this.#floor = floor ?? this.#floor;
    if (outcome === 'completed') this.#committed = plan?.next ?? (await loadCommitted(published));
    if (outcome === 'completed' && !plan) this.#tell();
    await this.#activateKeys();
    this.#isSettled = true;
  }

  async #activateKeys(): Promise<void> {
    const committed = this.#committed;
    if (!committed) return;
    for (const role of ONLINE_ROLES) {
      const [keyId] = signersOf(role, committed.root.signed, committed.targets.signed).keyids;
      if (keyId !== undefined && (await this.keys.activate(role, keyId))) {
        this.#deps.log.info({ subject: role, keyId }, 'a rotated key is active, the old one is deleted');
      }
    }
  }
}
