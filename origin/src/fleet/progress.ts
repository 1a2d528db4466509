import { lruCache } from '@sitecast/shared/bounded';
import type { DeviceState } from '@sitecast/shared/fleet';

export const MAX_PROGRESS_ENTRIES = 100_000;
/** Progress that isn't renewed for so long counts as unknown. */
export const PROGRESS_TTL_MS = 10 * 60_000;

/** How far a download has got. */
export interface Progress {
  id: string;
  rollout?: string | undefined;
  state: DeviceState;
  doneBytes: number;
  totalBytes: number;
  /** The device's clock. */
  at: string;
}

/** What devices report about running work, for people to look at: in memory, and some of it may be lost. */
export class ProgressBoard {
  /** The device that was heard the longest ago is forgotten first. */
  readonly #byId = lruCache<string, Progress & { receivedMs: number }>({ max: MAX_PROGRESS_ENTRIES });

  put(progress: Progress, nowMs: number): void {
    this.#byId.set(progress.id, { ...progress, receivedMs: nowMs });
  }

  get(id: string, nowMs: number): Progress | undefined {
    const found = this.#byId.peek(id);
    return found && Math.abs(nowMs - found.receivedMs) < PROGRESS_TTL_MS ? found : undefined;
  }

  /** Forgets a device's progress: a report says more. */
  clear(id: string): void {
    this.#byId.delete(id);
  }
}
