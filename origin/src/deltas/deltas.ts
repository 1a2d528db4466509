import { decodeRecipe } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import type { DeltaName } from '@sitecast/shared/release';
import pLimit from 'p-limit';
import { type Audit, ORIGIN } from '../audit/audit.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Leadership } from '../leadership.ts';
import { errorFields, type Log } from '../log.ts';
import { orphanedDeltas } from '../repository/delta-change.ts';
import { listedDeltas } from '../repository/delta-listing.ts';
import { deltaKey, readListing } from '../repository/listing.ts';
import type { Rollouts } from '../rollouts/rollouts.ts';
import type { DeltaWork } from './delta-work.ts';
import { type DeltaJob, failedJob, isUnfinished, newJob } from './job.ts';
import { type MakeDeps, makeOne } from './make-one.ts';
import { encodersFor } from './running.ts';
import { SignedDeltas } from './signed.ts';
import { deltasTo, isOver, wantedDeltas } from './wanted.ts';

/** Deltas that are known at one time, made or not. */
const MAX_JOBS = 2000;

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
  /** Those that operators have signed: no job of this origin. */
  readonly signed: SignedDeltas;
  readonly #deps: DeltasDeps;
  readonly #jobs = new Map<string, DeltaJob>();
  /** What changes the list of jobs runs one after the other. */
  readonly #serial = pLimit(1);
  #making: { key: string; abort: AbortController } | undefined;
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
      deltas.#jobs.set(deltaKey(job), job.state === 'making' ? { ...job, state: 'waiting' } : job);
    return deltas;
  }

  /** Those of a product, or all; in the order in which they were asked for. */
  list(product?: string): DeltaJob[] {
    return [...this.#jobs.values()].filter(job => product === undefined || job.product === product);
  }

  job(delta: DeltaName): DeltaJob | undefined {
    return this.#jobs.get(deltaKey(delta));
  }

  /**
   * Whether a delta to a release is still to come: one that is being made or waits for its turn, or that devices need and that isn't begun.
   * One that is made, that doesn't pay or that was given up is not.
   */
  isAwaited(product: string, to: number): boolean {
    if (this.list(product).some(job => job.to === to && isUnfinished(job))) return true;
    const { makesForRollouts, repository, registry } = this.#deps;
    const { committed } = repository;
    if (!makesForRollouts || !committed || this.#jobs.size >= MAX_JOBS) return false;
    const listing = readListing(committed.targets.signed);
    return deltasTo(product, to, listing, registry).some(delta => !this.job(delta));
  }

  /** From now on, until `stop`. */
  start(): void {
    this.#underWay = this.#run();
  }

  /** Ends what is being made; it goes on after the next start. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#making?.abort.abort();
    this.#wake();
    await this.#underWay;
    await this.#serial(() => undefined);
  }

  /**
   * Has deltas made. Those that are made or under way, or that operators have signed, stay as they are; one that failed is tried again.
   * @param by name of the operator
   * @throws SITECAST_TOO_MANY_DELTAS (conflict)
   */
  request(deltas: readonly DeltaName[], by: string): Promise<DeltaJob[]> {
    return this.#serial(async () => {
      const { audit, now, repository } = this.#deps;
      const { committed } = repository;
      const signed = committed && readListing(committed.targets.signed).deltas;
      const fresh = deltas.filter(delta => {
        if (signed?.has(deltaKey(delta))) return false;
        const state = this.job(delta)?.state;
        return state === undefined || state === 'failed' || state === 'notWorth';
      });
      this.#demandSpace(fresh.length);
      if (fresh.length > 0) {
        const events = fresh.map(({ product, from, to }) => {
          const details = { from, to };
          return { by, action: 'delta.request', subject: `product:${product}`, details } as const;
        });
        await audit.record(...events);
        for (const delta of fresh) this.#put(newJob(delta, by, now()));
        await this.#save();
        this.#wake();
      }
      return deltas.flatMap(delta => this.job(delta) ?? []);
    });
  }

  /** Takes away what nobody needs any more, and begins what rollouts need. To be called regularly. */
  tend(): Promise<void> {
    return this.#serial(async () => {
      const { repository, rollouts, registry, makesForRollouts, now } = this.#deps;
      const { committed } = repository;
      if (!committed) return;
      const records = rollouts.list();
      const before = JSON.stringify(this.list());
      const gone = new Map(orphanedDeltas(committed).map(delta => [deltaKey(delta), delta]));
      const listing = readListing(committed.targets.signed);
      const isListed = ({ product, from, to }: DeltaName): boolean =>
        listing.releases.get(product)?.has(from) === true && listing.releases.get(product)?.has(to) === true;
      // Clients take what operators have signed, so one of the origin with the same name is of no use.
      const isSuperseded = (delta: DeltaName): boolean => listing.deltas.has(deltaKey(delta));
      for (const delta of [...this.list(), ...listedDeltas(committed)])
        if (!isListed(delta) || isOver(delta, records) || isSuperseded(delta))
          gone.set(deltaKey(delta), delta);
      for (const key of gone.keys()) this.#forget(key);
      await repository.changeDeltas({ removed: [...gone.values()] });
      await this.#followListed();
      const wanted = makesForRollouts ? wantedDeltas(records, listing, registry) : [];
      for (const delta of wanted)
        if (!this.job(delta) && this.#jobs.size < MAX_JOBS) this.#put(newJob(delta, ORIGIN, now()));
      if (JSON.stringify(this.list()) !== before) await this.#save();
      await this.#deps.work.forgetOthers(this.list().filter(isUnfinished));
      this.#wake();
      await rollouts.endDeltaTerms();
    });
  }

  /** A published delta that isn't listed was damaged: it is made again. One that is listed is published, whatever is remembered of it. */
  async #followListed(): Promise<void> {
    const { repository, now } = this.#deps;
    const listed = new Map(
      repository.committed ? listedDeltas(repository.committed).map(delta => [deltaKey(delta), delta]) : [],
    );
    for (const job of this.list())
      if (job.state === 'published' && !listed.has(deltaKey(job))) this.#put(newJob(job, job.by, now()));
    for (const [key, { product, from, to, recipe, patchIndex }] of listed) {
      if (this.#jobs.has(key)) continue;
      const bytes = await repository.content.read(recipe);
      // A lost one is taken out of the list, and made again.
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

  /** What operators ask for comes first. */
  #next(): DeltaJob | undefined {
    const { leadership, repository, now } = this.#deps;
    const canPublish = repository.missingKeys.length === 0 && repository.clockDoubt?.isRefused !== true;
    if (!leadership.isHeld || !canPublish) return undefined;
    const nowMs = now();
    const due = this.list().filter(
      ({ state, notBefore }) =>
        state === 'waiting' && (notBefore === undefined || Date.parse(notBefore) <= nowMs),
    );
    return due.find(({ by }) => by !== ORIGIN) ?? due[0];
  }

  async #make(job: DeltaJob): Promise<void> {
    const { now, log } = this.#deps;
    const key = deltaKey(job);
    const abort = new AbortController();
    this.#making = { key, abort };
    const fields = { product: job.product, from: job.from, to: job.to };
    this.#put({ ...job, state: 'making' });
    log.info(fields, 'a delta is being made');
    const begunMs = performance.now();
    let after: DeltaJob | undefined;
    try {
      const made = await makeOne(this.#deps, job, {
        signal: abort.signal,
        encoders: encodersFor(job.product, job.from, this.#deps.registry),
        onProgress: progress => this.#put({ ...job, state: 'making', ...progress }),
      });
      const endedAt = new Date(now()).toISOString();
      after = { ...job, ...made, doneBasisPoints: 10_000, endedAt };
      const tookS = Math.round((performance.now() - begunMs) / 1000);
      log.info({ ...fields, state: made.state, patchBytes: made.patchBytes, tookS }, 'a delta is finished');
    } catch (error) {
      // As far as it got: that much isn't made again.
      const current = this.#jobs.get(key) ?? job;
      if (abort.signal.aborted) after = { ...current, state: 'waiting' };
      else {
        after = failedJob(current, reasonOf(error), now());
        log.error({ ...errorFields(error), ...fields, tries: after.tries }, 'making a delta failed');
      }
    } finally {
      this.#making = undefined;
    }
    await this.#end(key, after);
  }

  /** Whatever became of it, the next one isn't held up. */
  async #end(key: string, after: DeltaJob): Promise<void> {
    await this.#serial(async () => {
      // It was taken away meanwhile; what was published nevertheless goes with the next round of `tend`.
      if (!this.#jobs.has(key)) return;
      this.#jobs.set(key, after);
      try {
        await this.#save();
        await this.#deps.work.forgetOthers(this.list().filter(isUnfinished));
        await this.#deps.rollouts.endDeltaTerms();
      } catch (error) {
        this.#deps.log.error(errorFields(error), 'what became of a delta could not be written down');
      }
    });
  }

  #forget(key: string): void {
    this.#jobs.delete(key);
    if (this.#making?.key === key) this.#making.abort.abort();
  }

  #put(job: DeltaJob): void {
    // One that was forgotten while it was made isn't put back.
    if (job.state === 'making' && !this.#jobs.has(deltaKey(job))) return;
    this.#jobs.set(deltaKey(job), job);
  }

  #save(): Promise<void> {
    return this.#deps.work.saveJobs(this.list());
  }

  #demandSpace(count: number): void {
    if (this.#jobs.size + count <= MAX_JOBS) return;
    throw new SitecastError('conflict', 'SITECAST_TOO_MANY_DELTAS', `${MAX_JOBS} deltas are known already`, {
      hint: 'End rollouts, or withdraw releases: their deltas go with them.',
      data: { maxDeltas: MAX_JOBS },
    });
  }
}

function reasonOf(error: unknown): { code: string; message: string } {
  if (error instanceof SitecastError) return { code: error.code, message: error.message.slice(0, 500) };
  return { code: 'SITECAST_INTERNAL', message: String(error).slice(0, 500) };
}
