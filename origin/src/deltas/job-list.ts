import { SitecastError } from '@sitecast/shared/errors';
import type { DeltaName } from '@sitecast/shared/release';
import { deltaKey } from '../repository/listing.ts';
import type { DeltaJob } from './job.ts';

/** Deltas that are known at one time, made or not; removed ones make way. */
const MAX_JOBS = 2000;

/** The deltas that an origin makes or has made, in the order in which they were asked for. */
export class JobList {
  readonly #jobs = new Map<string, DeltaJob>();

  /** Those of a product, or all. */
  list(product?: string): DeltaJob[] {
    return [...this.#jobs.values()].filter(job => product === undefined || job.product === product);
  }

  get(delta: DeltaName): DeltaJob | undefined {
    return this.#jobs.get(deltaKey(delta));
  }

  /** In the place of the one of its name. */
  put(job: DeltaJob): void {
    this.#jobs.set(deltaKey(job), job);
  }

  forget(delta: DeltaName): void {
    this.#jobs.delete(deltaKey(delta));
  }

  /** Whether it isn't known, or was removed. */
  isGone(delta: DeltaName): boolean {
    const job = this.get(delta);
    return job === undefined || job.state === 'removed';
  }

  /** Whether so many more may come. */
  hasRoom(count: number): boolean {
    return this.list().filter(({ state }) => state !== 'removed').length + count <= MAX_JOBS;
  }

  /** Forgets removed ones, the oldest first, as far as others need their place. @returns false if that isn't enough */
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

  /** As `makeRoom`. @throws SITECAST_TOO_MANY_DELTAS (conflict) */
  demandRoom(count: number): void {
    if (this.makeRoom(count)) return;
    throw new SitecastError('conflict', 'SITECAST_TOO_MANY_DELTAS', `${MAX_JOBS} deltas are known already`, {
      hint: 'Remove some (`sitecast release deltas PRODUCT VERSION --remove --all`), or end rollouts: their deltas go with them.',
      data: { maxDeltas: MAX_JOBS },
    });
  }
}
