import { SitecastError } from '@sitecast/shared/errors';
import type { KeyPair, OnlineRole } from '@sitecast/shared/signing';
import type { TufKey } from '@sitecast/shared/trust';
import pLimit from 'p-limit';
import type { KeyStore } from '../keys/key-store.ts';
import type { OnlineKeys } from '../keys/online-keys.ts';
import { errorFields, type Log } from '../log.ts';
import type { ChunkStaging, FileStaging } from '../staging/ports.ts';
import { type AdoptedState, planAdoption } from './adopt.ts';
import { type Change, type ChangeResult, forgetStaged, planChange, readGiven } from './change.ts';
import type { LackingRelease } from './check-releases.ts';
import { type ClockDoubt, demandClock } from './clock.ts';
import type { CommitPlan } from './commit-plan.ts';
import { type Committed, versionsOf } from './committed.ts';
import { CommittedState } from './committed-state.ts';
import type { DamageBook } from './damage.ts';
import { type DeltaChange, planDeltas } from './delta-change.ts';
import { type PublishedFile, referencedBy } from './listing.ts';
import { changedRoles } from './online-roles.ts';
import { OnlineSigner } from './online-signer.ts';
import { keepChunksOfLostMetadata } from './half-restored.ts';
import { type DamagedRepository, findRepository } from './opening.ts';
import { PublishedContent } from './published-content.ts';
import { stillDamaged, withoutOnlineRoles } from './rebuild.ts';
import { changeEmpty, notInitialised } from './refusal.ts';
import { repairMetadata } from './repair.ts';
import type { PublishedChunks, RepositoryStore, VersionFloor } from './repository-store.ts';
import type { Role } from './roles.ts';
import { removeUnusedChunks } from './unused-chunks.ts';

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
  readonly #state: CommittedState;

  private constructor(deps: RepositoryDeps, found: Awaited<ReturnType<typeof findRepository>>) {
    const { keys, leaps } = found;
    this.#deps = deps;
    this.keys = keys;
    this.#signer = new OnlineSigner({ ...deps, leaps, keys });
    this.#state = new CommittedState({ ...deps, keys, afterCommit: plan => this.#afterCommit(plan) }, found);
    this.content = new PublishedContent(deps, () => this.#state.current);
  }

  /**
   * Ends what an earlier process left unfinished, and reads what is published. Damaged metadata that is the origin's own to sign
   * is signed anew.
   * @throws SITECAST_REPOSITORY_DAMAGED
   */
  static async open(deps: RepositoryDeps): Promise<Repository> {
    const found = await findRepository(deps);
    await keepChunksOfLostMetadata(deps, found.current);
    const repository = new Repository(deps, found);
    if (found.damaged) await repository.#rebuild(found.damaged);
    await repository.#state.activateKeys();
    return repository;
  }

  /** What is published; undefined before the first change. */
  get committed(): Committed | undefined {
    return this.#state.current;
  }

  /** The bytes of metadata in force; undefined for other versions. */
  metadataInForce(role: Role, version: number): Uint8Array | undefined {
    const metadata = this.#state.current?.[role];
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
    return this.#state.isSettled;
  }

  /** Why the clock isn't believed; undefined if it is. */
  get clockDoubt(): ClockDoubt | undefined {
    return this.#signer.clockDoubt(this.#state.current);
  }

  /** The roles that can't be signed for want of their keys, and what is wrong with each. */
  get missingKeys(): { role: OnlineRole; problem: string }[] {
    return this.#state.current ? this.#signer.missingKeys(this.#state.current) : [];
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
      const previous = await this.#state.ready();
      if (!previous) return;
      const { root, targets } = previous;
      const wanted = { root, targets, previous, floor: this.#state.floor };
      const { next, unsigned, ...signed } = await this.#signer.sign(wanted);
      const roles = changedRoles(previous, next);
      if (roles.length > 0) {
        await this.#state.commit({ previous, next, ...signed });
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
      const previous = await this.#state.ready();
      if (!previous) throw notInitialised();
      const { root, targets } = previous;
      const wanted = { root, targets, previous, floor: this.#state.floor, rollouts: filesByTarget };
      const { next, ...signed } = await this.#signer.sign(wanted);
      await this.#state.commit({ previous, next, ...signed });
    });
  }

  /**
   * Publishes deltas whose patches are staged, and takes others out of the list. Their files and chunks stay until nothing refers to them.
   * @throws SITECAST_NOT_INITIALISED, and as `planDeltas`; nothing has changed then
   */
  changeDeltas(change: DeltaChange): Promise<void> {
    return this.#serial(async () => {
      const previous = await this.#state.ready();
      if (!previous) throw notInitialised();
      const plan = await planDeltas(this.#planDeps(), previous, change);
      if (plan) await this.#state.commit(plan);
    });
  }

  /**
   * Signs no version up to these again: clients have seen them, though this store doesn't know of it. The store remembers the
   * floor once something is published after this call.
   * @param issuedMs when the timestamp among them was issued
   */
  raiseFloor(versions: VersionFloor, issuedMs: number): Promise<void> {
    return this.#serial(async () => {
      await this.#state.ready();
      this.#signer.noteIssued(issuedMs);
      this.#state.raiseFloor(versions);
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
      const previous = await this.#state.ready();
      if (!previous) throw notInitialised();
      const { plan, change, isSignedHere } = await planAdoption(this.#planDeps(), previous, state);
      await this.#state.commit(plan);
      await forgetStaged(this.#deps, change.newFiles);
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
      return this.#state.current ? await this.content.repair(this.#state.current) : { chunks: 0, files: [] };
    });
  }

  /**
   * Writes the metadata in force anew if the disk has spoilt it.
   * @returns the roles
   */
  repairMetadata(): Promise<Role[]> {
    return this.#serial(async () => {
      await this.#state.ready();
      return this.#state.current ? await repairMetadata(this.#deps.published, this.#state.current) : [];
    });
  }

  /**
   * Signs with the key that the published metadata names for a role.
   * @throws SITECAST_NOT_INITIALISED, SITECAST_ONLINE_KEY_MISSING, SITECAST_CLOCK_AHEAD, SITECAST_CLOCK_NEVER_SET
   */
  signerOf(role: OnlineRole): KeyPair {
    if (!this.#state.current) throw notInitialised();
    return this.#signer.require(role, this.#state.current);
  }

  /** @throws what `publishRollouts` would throw before it has done anything */
  demandRolloutsSigner(): void {
    for (const role of ['rollouts', 'snapshot', 'timestamp'] as const) this.signerOf(role);
  }

  /** Calls after every commit, whichever origin made it; the function returned ends that. */
  onCommit(listener: () => void): () => void {
    return this.#state.onCommit(listener);
  }

  /** Takes over what another origin has published. Each change does so first; an origin that changes nothing calls it now and then. */
  notice(): Promise<void> {
    return this.#serial(async () => {
      await this.#state.notice();
    });
  }

  /** Makes a pending key for a role, or returns the pending one. */
  prepareKey(role: OnlineRole): Promise<TufKey> {
    return this.#serial(async () => (await this.keys.prepare(role)).key);
  }

  /**
   * Deletes what was staged before `stagedBeforeMs`, and files that the metadata stopped referring to.
   * @throws SITECAST_CLOCK_AHEAD, SITECAST_CLOCK_NEVER_SET: by such a clock everything is old
   */
  async sweep(stagedBeforeMs: number): Promise<void> {
    const { published, chunks, staged, now, log } = this.#deps;
    const removed = await this.#exclusively(async committed => ({
      chunks: await chunks.prune(stagedBeforeMs),
      files: await staged.prune(stagedBeforeMs),
      superseded: committed ? await published.prune(referencedBy(committed), now()) : 0,
    }));
    if (Object.values(removed).some(count => count > 0)) log.info({ removed }, 'leftovers removed');
  }

  /**
   * Deletes published chunks that no index names, but for those that an upload has asked for since `stagedBeforeMs`. It goes through all chunks, so it
   * takes minutes in a large store; changes go on meanwhile.
   * @throws as `sweep`; SITECAST_FILES_LOST: which chunks are needed isn't known then
   */
  async removeUnusedChunks(stagedBeforeMs: number): Promise<void> {
    const { published, publishedChunks, log } = this.#deps;
    const exclusively = <T>(act: (committed: Committed | undefined) => Promise<T>): Promise<T> =>
      this.#exclusively(act);
    const unused = await removeUnusedChunks(
      { published, publishedChunks, content: this.content, exclusively },
      stagedBeforeMs,
    );
    if (unused > 0) log.info({ removed: { unused } }, 'chunks removed that no index names');
  }

  /** Runs an act while no change is under way, by a clock that is believed. */
  #exclusively<T>(act: (committed: Committed | undefined) => Promise<T>): Promise<T> {
    return this.#serial(async () => {
      await this.#state.ready();
      demandClock(this.clockDoubt);
      return await act(this.#state.current);
    });
  }

  versions(): Partial<Record<Role, number>> {
    return this.#state.current ? versionsOf(this.#state.current) : {};
  }

  /** Resolves when no change is under way any more. */
  async idle(): Promise<void> {
    await this.#serial(() => undefined);
  }

  async #submit({ isDryRun, beforeCommit, ...change }: Change): Promise<ChangeResult> {
    if (change.root === undefined && change.targets === undefined) throw changeEmpty();
    const previous = await this.#state.ready();
    // Before anything is compared with it: a clock that is wrong would be blamed on the change.
    demandClock(this.clockDoubt);
    const given = readGiven(change, previous);
    if (previous && !given.root && !given.targets) {
      const nothing = { added: [], removed: [], products: [], deltas: { added: [], removed: [] } };
      return { versions: versionsOf(previous), ...nothing, isAlreadyDone: true };
    }
    const plan = await planChange(this.#planDeps(), previous, given);
    const { added, removed, products, deltas, newFiles } = plan.change;
    const versions = versionsOf(plan.next);
    const result = { versions, added, removed, products, deltas, isAlreadyDone: false };
    if (isDryRun === true) return result;

    await beforeCommit?.(result);
    await this.#state.commit(plan);
    await forgetStaged(this.#deps, newFiles);
    this.#deps.log.info(result, 'published');
    return result;
  }

  #planDeps() {
    const { published, staged, chunks, now } = this.#deps;
    const readPublished = (file: PublishedFile) => this.content.read(file);
    const own = { keys: this.keys, signer: this.#signer, floor: this.#state.floor };
    return { published, staged, chunks, now, readPublished, ...own };
  }

  async #rebuild(found: DamagedRepository): Promise<void> {
    const { root, targets, rollouts, deltasTargets, issuedMs, damage } = found;
    const rolloutsTargets = rollouts.signed.targets;
    this.#signer.noteIssued(issuedMs);
    const listed = { rolloutsTargets, deltasTargets };
    const wanted = { root, targets, previous: undefined, ...listed, floor: this.#state.floor };
    const { next, leap } = await this.#signer.sign(wanted).catch((error: unknown) => {
      throw error instanceof SitecastError ? stillDamaged(damage, error) : error;
    });
    await this.#state.commit({ previous: withoutOnlineRoles(next), next, targetFiles: [], leap });
    this.damage.foundFiles += 1;
    const fields = { ...errorFields(damage), versions: this.versions() };
    this.#deps.log.error(fields, 'metadata was damaged: it was signed anew');
  }

  async #afterCommit(plan: CommitPlan): Promise<void> {
    await this.#signer.committed(plan);
    if (plan.previous?.targets !== plan.next.targets) await this.content.keepCopies(plan.next);
  }
}
