import { SitecastError } from '@sitecast/shared/errors';
import type { DeltaName } from '@sitecast/shared/release';
import { deltaKey } from '../repository/listing.ts';
import type { DeltaJob } from './job.ts';

/** The most jobs that are kept. Removed ones are forgotten first. */
const MAX_JOBS = 2000;

/** The jobs of an origin, in the order in which they were requested. */
export class JobList {
  readonly #jobs = new Map<string, DeltaJob>();

  /** The jobs of a product, or of all products. */
  list(product?: string): DeltaJob[] {
    return [...this.#jobs.values()].filter(job => product === undefined || job.product === product);
  }

  get(delta: DeltaName): DeltaJob | undefined {
    return this.#jobs.get(deltaKey(delta));
  }

  /** Adds a job, or replaces the one of the same delta. */
  put(job: DeltaJob): void {
    this.#jobs.set(deltaKey(job), job);
  }

  forget(delta: DeltaName): void {
    this.#jobs.delete(deltaKey(delta));
  }

  /** Whether there is no job for this delta, or it was removed. */
  isGone(delta: DeltaName): boolean {
    const job = this.get(delta);
    return job === undefined || job.state === 'removed';
  }

  /** Whether this many jobs can be added. */
  hasRoom(count: number): boolean {
    return this.list().filter(({ state }) => state !== 'removed').length + count <= MAX_JOBS;
  }

  /** Forgets removed jobs, the oldest first, until this many can be added. @returns false if that isn't enough */
  makeRoom(count: number): boolean {
    if (!this.hasRoom(count)) return false;
    const removed = this.list().filter(({ state }) => state === 'removed');
    removed.sort(({ endedAt: one = '' }, { endedAt: other = '' }) => (one < other ? -1 : 1));
    for (const job of removed) {
      if (this.#jobs.size + count <= MAX_JOBS) break;
      this.forget(job);
    }
    return true;
  }

  /** Like `makeRoom`. @throws SITECAST_TOO_MANY_DELTAS (conflict) */
  demandRoom(count: number): void {
    if (this.makeRoom(count)) return;
    throw new SitecastError('conflict', 'SITECAST_TOO_MANY_DELTAS', `${MAX_JOBS} deltas are known already`, {
      hint: 'Remove some (`sitecast release deltas PRODUCT VERSION --remove --all`), or end rollouts: their deltas go with them.',
      data: { maxDeltas: MAX_JOBS },
    });
  }
}
