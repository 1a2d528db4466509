import { decodeRecipe } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import type { DeltaName } from '@sitecast/shared/release';
import pLimit from 'p-limit';
import { type Audit, ORIGIN } from '../audit/audit.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Leadership } from '../leadership.ts';
import { errorFields, type Log } from '../log.ts';
import { listedDeltas } from '../repository/delta-listing.ts';
import { deltaKey, type Listing, readListing } from '../repository/listing.ts';
import type { Rollouts } from '../rollouts/rollouts.ts';
import type { DeltaWork } from './delta-work.ts';
import {
  type DeltaJob,
  failedJob,
  interruptedJob,
  isForgettable,
  isRemovedBefore,
  isUnfinished,
  newJob,
  nextJob,
  removedJob,
} from './job.ts';
import { JobList } from './job-list.ts';
import { type MakeDeps, makeOne } from './make-one.ts';
import { encodersFor, type IsMeant } from './running.ts';
import { SignedDeltas } from './signed.ts';
import { deltasTo, isNeeded, ledBy, rolloutsTo, wantedDeltas, whyUseless } from './wanted.ts';

interface DeltasDeps extends MakeDeps {
  work: DeltaWork;
  rollouts: Pick<Rollouts, 'list' | 'endDeltaTerms'>;
  registry: Registry;
  leadership: Pick<Leadership, 'isHeld'>;
  audit: Audit;
  /** Whether deltas are made when a rollout starts; operators can always have them made. */
  makesForRollouts: boolean;
  now: () => number;
  log: Log;
}

/**
 * The deltas that the origin makes: for the releases that devices run when a rollout starts, and when an operator asks. One is made
 * after the other, in the background.
 */
export class Deltas {
  /** Deltas that operators have signed. The origin has no jobs for them. */
  readonly signed: SignedDeltas;
  readonly #deps: DeltasDeps;
  readonly #jobs = new JobList();
  /** Changes of the job list run one after the other. */
  readonly #serial = pLimit(1);
  #making: { delta: DeltaName; abort: AbortController } | undefined;
  #isStopped = false;
  #wake: () => void = () => {};
  #underWay: Promise<void> = Promise.resolve();

  private constructor(deps: DeltasDeps) {
    this.#deps = deps;
    this.signed = new SignedDeltas(deps.repository, () => deps.rollouts.list());
  }

  static async open(deps: DeltasDeps): Promise<Deltas> {
    const deltas = new Deltas(deps);
    for (const job of await deps.work.jobs())
      deltas.#jobs.put(job.state === 'making' ? await deltas.#interrupted(job) : job);
    return deltas;
  }

  async #interrupted(job: DeltaJob): Promise<DeltaJob> {
    const { work, now, log } = this.#deps;
    const after = interruptedJob(job, (await work.windows(job)).length, now());
    const { product, from, to, state, tries } = after;
    log.warn({ product, from, to, state, tries }, 'the process before ended in the midst of making a delta');
    return after;
  }

  /** The jobs of a product, or of all products, in the order in which they were requested. */
  list(product?: string): DeltaJob[] {
    return this.#jobs.list(product);
  }

  job(delta: DeltaName): DeltaJob | undefined {
    return this.#jobs.get(delta);
  }

  /**
   * Whether devices should wait for a delta to a release: one is being made or waits for its turn, or rollouts need one that isn't begun
   * yet. A delta that is published, that doesn't pay, that was given up, or that was removed since the rollout began is not awaited.
   * @param sinceMs when the rollout to the release was started
   */
  isAwaited(product: string, to: number, sinceMs: number): boolean {
    if (this.list(product).some(job => job.to === to && isUnfinished(job))) return true;
    const { makesForRollouts, repository, registry } = this.#deps;
    const { committed } = repository;
    if (!makesForRollouts || !committed || !this.#jobs.hasRoom(1)) return false;
    const listing = readListing(committed.targets.signed);
    // A rollout that is about to start isn't listed yet.
    const rollouts = rolloutsTo(product, to, this.#deps.rollouts.list());
    const isMeant = rollouts.length > 0 ? ledBy(rollouts) : () => true;
    return deltasTo(product, to, { listing, registry, isMeant }).some(delta =>
      this.#isToBegin(delta, sinceMs),
    );
  }

  /**
   * The deltas to a release that devices may need: from older releases, and from newer ones where a rollout under way leads back from them.
   */
  usefulTo(product: string, to: number, listing: Listing): DeltaName[] {
    const { registry, rollouts } = this.#deps;
    const isLed = ledBy(rolloutsTo(product, to, rollouts.list()));
    const isMeant: IsMeant = (device, counter) => counter < to || isLed(device, counter);
    return deltasTo(product, to, { listing, registry, isMeant });
  }

  /** Whether a delta that has been needed since then isn't begun yet. */
  #isToBegin(delta: DeltaName, sinceMs: number): boolean {
    const job = this.job(delta);
    return job === undefined || isRemovedBefore(job, sinceMs);
  }

  /** Makes deltas from now on, until `stop`. */
  start(): void {
    this.#underWay = this.#run();
  }

  /** Interrupts the delta that is being made. It is continued after the next start. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#making?.abort.abort();
    this.#wake();
    await this.#underWay;
    await this.#serial(() => undefined);
  }

  /**
   * Requests deltas. Those that are made, being made or signed by operators stay as they are; one that failed or was removed is begun anew.
   * @param by name of the operator
   * @throws SITECAST_TOO_MANY_DELTAS (conflict)
   */
  request(deltas: readonly DeltaName[], by: string): Promise<DeltaJob[]> {
    return this.#serial(async () => {
      const { audit, repository } = this.#deps;
      const { committed } = repository;
      const signed = committed && readListing(committed.targets.signed).deltas;
      const fresh = deltas.filter(delta => {
        if (signed?.has(deltaKey(delta))) return false;
        const state = this.job(delta)?.state;
        return state === undefined || state === 'failed' || state === 'notWorth' || state === 'removed';
      });
      this.#jobs.demandRoom(fresh.length);
      if (fresh.length > 0) {
        const events = fresh.map(({ product, from, to }) => {
          const details = { from, to };
          return { by, action: 'delta.request', subject: `product:${product}`, details } as const;
        });
        await audit.record(...events);
        for (const delta of fresh) this.#begin(delta, by);
        await this.#save();
        this.#letNeededGoFirst();
        this.#wake();
      }
      return deltas.flatMap(delta => this.job(delta) ?? []);
    });
  }

  /**
   * Ends and removes deltas that the origin makes or has published. A rollout that is started later requests them again. Where the origin
   * can't sign at the moment, it removes them from the list as soon as it can.
   * @param by name of the operator
   * @returns the deltas that were there
   */
  remove(deltas: readonly DeltaName[], by: string): Promise<DeltaJob[]> {
    return this.#serial(async () => {
      const { audit, repository, rollouts } = this.#deps;
      const found = deltas.flatMap(delta => this.job(delta) ?? []).filter(({ state }) => state !== 'removed');
      if (found.length === 0) return [];
      const events = found.map(({ product, from, to, state }) => {
        const details = { from, to, state };
        return { by, action: 'delta.remove', subject: `product:${product}`, details } as const;
      });
      await audit.record(...events);
      const reason = { code: 'SITECAST_DELTA_REMOVED', message: `${by} removed it` };
      for (const job of found) this.#remove(job, reason);
      await this.#save();
      this.#deps.log.info({ deltas: found.map(deltaKey), by }, 'deltas are removed');
      await repository.changeDeltas({ removed: found });
      await this.#deps.work.forgetOthers(this.list().filter(isUnfinished));
      await rollouts.endDeltaTerms();
      this.#wake();
      return found.flatMap(delta => this.job(delta) ?? []);
    });
  }

  /** Removes deltas that are no longer needed, and requests those that rollouts need. To be called regularly. */
  tend(): Promise<void> {
    return this.#serial(async () => {
      const { repository, rollouts, registry, makesForRollouts, now } = this.#deps;
      const { committed } = repository;
      if (!committed) return;
      const records = rollouts.list();
      const before = JSON.stringify(this.list());
      const listing = readListing(committed.targets.signed);
      await repository.changeDeltas({ removed: this.#endUseless(listing, records, listedDeltas(committed)) });
      await this.#followListed();
      const wanted = makesForRollouts ? wantedDeltas(records, listing, registry) : [];
      for (const delta of wanted)
        if (this.#isToBegin(delta, delta.sinceMs) && this.#jobs.makeRoom(1)) this.#begin(delta, ORIGIN);
      for (const job of this.list())
        if (isForgettable(job, now()) && !isNeeded(job, records)) this.#forget(job);
      if (JSON.stringify(this.list()) !== before) await this.#save();
      await this.#deps.work.forgetOthers(this.list().filter(isUnfinished));
      this.#letNeededGoFirst();
      this.#wake();
      await rollouts.endDeltaTerms();
    });
  }

  /**
   * Forgets deltas that are no longer needed. If an operator asked for one, its job stays visible, with the reason of its end.
   * @returns those that must not be listed any more
   */
  #endUseless(
    listing: Listing,
    records: ReturnType<Rollouts['list']>,
    listed: readonly DeltaName[],
  ): DeltaName[] {
    const gone = new Map<string, DeltaName>();
    for (const delta of [...this.list(), ...listed]) {
      const job = this.job(delta);
      // Clients prefer the delta that operators have signed, so the origin's own of the same name is useless.
      const isReplaced = listing.deltas.has(deltaKey(delta));
      const reason = job?.state === 'removed' ? job.reason : whyUseless(job ?? delta, listing, records);
      if (!isReplaced && !reason) continue;
      gone.set(deltaKey(delta), delta);
      if (isReplaced || (job?.by === ORIGIN && job.state !== 'removed')) this.#forget(delta);
      else if (job && reason && job.state !== 'removed') this.#remove(job, reason);
    }
    return [...gone.values()];
  }

  /**
   * Brings jobs in line with the list of published deltas. A job that says `published` without being listed was damaged: it is made again.
   * A listed delta without a job gets one.
   */
  async #followListed(): Promise<void> {
    const { repository, now } = this.#deps;
    const listed = new Map(
      repository.committed ? listedDeltas(repository.committed).map(delta => [deltaKey(delta), delta]) : [],
    );
    for (const job of this.list())
      if (job.state === 'published' && !listed.has(deltaKey(job))) this.#put(newJob(job, job.by, now()));
    for (const delta of listed.values()) {
      const { product, from, to, recipe, patchIndex } = delta;
      if (this.job(delta)) continue;
      const bytes = await repository.content.read(recipe);
      // Its recipe is lost: it is removed from the list, and made again.
      if (!bytes) continue;
      const { windows, restFrameBytes: restBytes } = decodeRecipe(bytes);
      const headBytes = recipe.lengthBytes + patchIndex.lengthBytes;
      const patchBytes = windows.reduce((sum, { patchLength }) => sum + patchLength, 0);
      const made = { patches: windows.length, patchBytes, headBytes, restBytes };
      const job = newJob({ product, from, to }, ORIGIN, now());
      this.#put({ ...job, state: 'published', doneBasisPoints: 10_000, ...made });
    }
  }

  async #run(): Promise<void> {
    while (!this.#isStopped) {
      const job = this.#next();
      if (job) await this.#make(job);
      else
        await new Promise<void>(resolve => {
          this.#wake = resolve;
        });
    }
  }

  /** Why no delta is made at the moment, whichever jobs wait: none could be published. */
  whyNone(): string | undefined {
    const { leadership, repository } = this.#deps;
    const { missingKeys, clockDoubt } = repository;
    if (!leadership.isHeld) return 'another origin has the lead';
    if (missingKeys.length > 0)
      return `the origin lacks its keys of ${missingKeys.map(({ role }) => role).join(', ')}`;
    return clockDoubt?.isRefused === true ? clockDoubt.message : undefined;
  }

  #next(): DeltaJob | undefined {
    const { now, rollouts } = this.#deps;
    if (this.whyNone() !== undefined) return undefined;
    const records = rollouts.list();
    return nextJob(this.list(), job => isNeeded(job, records), now());
  }

  /** Interrupts a delta that no rollout needs for one that a rollout needs. Its finished windows are kept, and it is continued later. */
  #letNeededGoFirst(): void {
    const making = this.#making && this.job(this.#making.delta);
    if (!making) return;
    const records = this.#deps.rollouts.list();
    if (isNeeded(making, records)) return;
    const next = this.#next();
    if (next && isNeeded(next, records)) this.#making?.abort.abort();
  }

  async #make(job: DeltaJob): Promise<void> {
    const { work, now, log } = this.#deps;
    const abort = new AbortController();
    this.#making = { delta: job, abort };
    const fields = { product: job.product, from: job.from, to: job.to };
    log.info(fields, 'a delta is being made');
    const begunMs = performance.now();
    let after: DeltaJob | undefined;
    try {
      const windowsBefore = (await work.windows(job)).length;
      const begun: DeltaJob = { ...job, state: 'making', windowsBefore };
      this.#put(begun);
      // If the process ends from now on, that counts as a try: see `interruptedJob`.
      await this.#serial(() => this.#save());
      const made = await makeOne(this.#deps, job, {
        signal: abort.signal,
        encoders: encodersFor(job.product, job.from, this.#deps.registry),
        onProgress: progress => {
          if (!abort.signal.aborted) this.#put({ ...begun, ...progress });
        },
      });
      const endedAt = new Date(now()).toISOString();
      after = { ...job, ...made, doneBasisPoints: 10_000, endedAt };
      const tookS = Math.round((performance.now() - begunMs) / 1000);
      log.info({ ...fields, state: made.state, patchBytes: made.patchBytes, tookS }, 'a delta is finished');
    } catch (error) {
      // Keeps its progress: finished windows aren't made again.
      const { doneBasisPoints, patches, patchBytes } = this.job(job) ?? job;
      const current = { ...job, doneBasisPoints, patches, patchBytes };
      if (abort.signal.aborted) {
        after = { ...current, state: 'waiting' };
        log.info(fields, 'making a delta is interrupted');
      } else {
        after = failedJob(current, reasonOf(error), now());
        log.error({ ...errorFields(error), ...fields, tries: after.tries }, 'making a delta failed');
      }
    } finally {
      this.#making = undefined;
    }
    await this.#end(after);
  }

  /** Notes how a job has ended. An error here doesn't stop the next job. */
  async #end(after: DeltaJob): Promise<void> {
    await this.#serial(async () => {
      // It was removed meanwhile. If it was published nevertheless, the next `tend` removes it from the list.
      if (this.#jobs.isGone(after)) return;
      this.#jobs.put(after);
      try {
        await this.#save();
        await this.#deps.work.forgetOthers(this.list().filter(isUnfinished));
        await this.#deps.rollouts.endDeltaTerms();
      } catch (error) {
        this.#deps.log.error(errorFields(error), 'what became of a delta could not be written down');
      }
    });
  }

  #begin(delta: DeltaName, by: string): void {
    // Forgotten first, so that it goes to the end of the list.
    this.#jobs.forget(delta);
    this.#jobs.put(newJob(delta, by, this.#deps.now()));
  }

  #forget(delta: DeltaName): void {
    this.#jobs.forget(delta);
    this.#endMaking(delta);
  }

  #remove(job: DeltaJob, reason: NonNullable<DeltaJob['reason']>): void {
    this.#jobs.put(removedJob(job, reason, this.#deps.now()));
    this.#endMaking(job);
  }

  #endMaking(delta: DeltaName): void {
    if (this.#making && deltaKey(this.#making.delta) === deltaKey(delta)) this.#making.abort.abort();
  }

  #put(job: DeltaJob): void {
    // A job that was removed while it was made isn't put back.
    if (job.state === 'making' && this.#jobs.isGone(job)) return;
    this.#jobs.put(job);
  }

  #save(): Promise<void> {
    return this.#deps.work.saveJobs(this.list());
  }
}

function reasonOf(error: unknown): { code: string; message: string } {
  if (error instanceof SitecastError) return { code: error.code, message: error.message.slice(0, 500) };
  return { code: 'SITECAST_INTERNAL', message: String(error).slice(0, 500) };
}
