import { SitecastError } from '@sitecast/shared/errors';
import { sleep } from '@sitecast/shared/async';
import type { SiteUpstreams } from '../upstream/site-upstreams.ts';

/** Devices whose newest progress waits; that of others is dropped. */
const MAX_WAITING = 5000;
/** Devices in one request. */
export const MAX_PROGRESS = 200;
const SEND_EVERY_MS = 2000;

export interface Progress {
  id: string;
  rollout?: string | undefined;
  state: string;
  doneBytes: number;
  totalBytes: number;
  at: string;
}

/** How far devices are, the newest of each: sent on now and then, and lost without regret. */
export class ProgressRelay {
  readonly #upstreams: Pick<SiteUpstreams, 'ask'>;
  readonly #waiting = new Map<string, Progress>();

  constructor(upstreams: Pick<SiteUpstreams, 'ask'>) {
    this.#upstreams = upstreams;
  }

  note(progress: Progress): void {
    if (this.#waiting.size >= MAX_WAITING && !this.#waiting.has(progress.id)) return;
    this.#waiting.set(progress.id, progress);
  }

  /** Returns when the signal comes. */
  async run(signal: AbortSignal, everyMs = SEND_EVERY_MS): Promise<void> {
    while (await sleep(everyMs, signal)) await this.#send();
  }

  async #send(): Promise<void> {
    const progress = [...this.#waiting.values()].slice(0, MAX_PROGRESS);
    if (progress.length === 0) return;
    for (const { id } of progress) this.#waiting.delete(id);
    try {
      await this.#upstreams.ask('/site/v1/progress', { progress });
    } catch (error) {
      // The next ones say it anew.
      if (!(error instanceof SitecastError)) throw error;
    }
  }
}
