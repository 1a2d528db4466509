import { MAX_PROGRESS_PER_GATEWAY_REQUEST, type progressSchema } from '@sitecast/shared/api';
import type { z } from 'zod';
import { SitecastError } from '@sitecast/shared/errors';
import { sleep } from '@sitecast/shared/async';
import type { SiteUpstreams } from '../upstream/site-upstreams.ts';

/** Devices whose newest progress waits. That of further devices is dropped. */
const MAX_WAITING = 5000;
const SEND_EVERY_MS = 2000;

type Progress = z.infer<typeof progressSchema>;

/** Passes on how far devices are, the newest of each. It may get lost. */
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
    const progress = [...this.#waiting.values()].slice(0, MAX_PROGRESS_PER_GATEWAY_REQUEST);
    if (progress.length === 0) return;
    for (const { id } of progress) this.#waiting.delete(id);
    try {
      await this.#upstreams.ask('/site/v1/progress', { progress });
    } catch (error) {
      // The next progress says it again.
      if (!(error instanceof SitecastError)) throw error;
    }
  }
}
