import { type After, repeat } from '@sitecast/shared/async';
import { type Log, RecurringErrors } from './log.ts';
import { isUrgent, warningsOf } from './repository/description.ts';
import type { Leadership } from './leadership.ts';
import type { OwnCertificate } from './own-certificate.ts';
import type { Repository } from './repository/repository.ts';

/** How often due work is looked for. Failed work is tried again then. */
const CHECK_INTERVAL_MS = 60_000;
const SWEEP_INTERVAL_MS = 24 * 3_600_000;
const WARN_INTERVAL_MS = 24 * 3_600_000;

export type { After };

interface UpkeepDeps {
  repository: Repository;
  leadership: Pick<Leadership, 'isHeld'>;
  /** How long uploads wait for a release that refers to them. */
  stagingTtlMs: number;
  ownCertificate?: Pick<OwnCertificate, 'warnings'> | undefined;
  now: () => number;
  after: After;
  log: Log;
}

/**
 * The origin's regular work: it signs its own roles anew before they expire, deletes leftovers, and warns of what only
 * operators can renew. Without the lead it follows what another origin publishes.
 */
export class Upkeep {
  readonly #deps: UpkeepDeps;
  readonly #errors: RecurringErrors;
  #sweptMs = Number.NEGATIVE_INFINITY;
  /** When chunks were last looked through, or this process began: whoever restores a part of a backup has a day for the rest. */
  #chunksSweptMs: number;
  /** It may take minutes, and nothing waits for it. */
  #sweepingChunks: Promise<void> | undefined;
  #warnedMs = Number.NEGATIVE_INFINITY;
  #isStopped = false;
  #stop = async (): Promise<void> => {};

  constructor(deps: UpkeepDeps) {
    this.#deps = deps;
    this.#chunksSweptMs = deps.now();
    this.#errors = new RecurringErrors(deps.log);
  }

  /** Does what is due, now and regularly from then on. Failures are logged and tried again. */
  async start(): Promise<void> {
    await this.#round();
    if (this.#isStopped) return;
    this.#stop = repeat(() => this.#round(), { everyMs: CHECK_INTERVAL_MS, after: this.#deps.after });
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#stop();
    await this.#sweepingChunks;
  }

  async #round(): Promise<void> {
    const { repository, leadership, now } = this.#deps;
    // Another origin publishes: this one serves the same.
    if (leadership.isHeld) await this.#publish();
    else await this.#attempt('reading what another origin has published failed', () => repository.notice());
    this.#warn(now());
  }

  async #publish(): Promise<void> {
    const { repository, now, stagingTtlMs } = this.#deps;
    await this.#attempt('signing the online roles anew failed', () => repository.renew());
    const nowMs = now();
    // Everything is old by a clock that isn't believed. The failure above has been logged.
    const isBelieved = repository.clockDoubt?.isRefused !== true;
    if (isBelieved && Math.abs(nowMs - this.#sweptMs) >= SWEEP_INTERVAL_MS) {
      await this.#attempt('deleting leftovers failed', async () => {
        await repository.sweep(nowMs - stagingTtlMs);
        this.#sweptMs = nowMs;
      });
    }
    if (isBelieved && Math.abs(nowMs - this.#chunksSweptMs) >= SWEEP_INTERVAL_MS) this.#sweepChunks(nowMs);
  }

  /** A failure is logged, and a day goes by before the next attempt: it reads all indexes. */
  #sweepChunks(nowMs: number): void {
    const { repository, stagingTtlMs } = this.#deps;
    this.#chunksSweptMs = nowMs;
    this.#sweepingChunks ??= this.#attempt(
      'deleting unused chunks failed',
      () => repository.removeUnusedChunks(nowMs - stagingTtlMs),
      SWEEP_INTERVAL_MS,
    ).finally(() => {
      this.#sweepingChunks = undefined;
    });
  }

  #warn(nowMs: number): void {
    if (Math.abs(nowMs - this.#warnedMs) < WARN_INTERVAL_MS) return;
    this.#warnedMs = nowMs;
    const { repository, ownCertificate, log } = this.#deps;
    for (const warning of [...warningsOf(repository, nowMs), ...(ownCertificate?.warnings(nowMs) ?? [])]) {
      const { message, role: subject, ...others } = warning;
      const fields = { subject, ...others };
      if (isUrgent(warning, repository)) log.error(fields, message);
      else log.warn(fields, message);
    }
  }

  async #attempt(failure: string, act: () => Promise<void>, retryMs = CHECK_INTERVAL_MS): Promise<void> {
    try {
      await act();
      this.#errors.succeeded(failure);
    } catch (error) {
      this.#errors.failed(failure, error, failure, { retryMs });
    }
  }
}
