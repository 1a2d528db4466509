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
  readonly #byId = new Map<string, Progress & { receivedMs: number }>();

  put(progress: Progress, nowMs: number): void {
    this.#byId.delete(progress.id);
    this.#byId.set(progress.id, { ...progress, receivedMs: nowMs });
    if (this.#byId.size <= MAX_PROGRESS_ENTRIES) return;
    const [oldest] = this.#byId.keys();
    if (oldest !== undefined) this.#byId.delete(oldest);
  }

  get(id: string, nowMs: number): Progress | undefined {
    const found = this.#byId.get(id);
    return found && Math.abs(nowMs - found.receivedMs) < PROGRESS_TTL_MS ? found : undefined;
  }

  /** Forgets a device's progress: a report says more. */
  clear(id: string): void {
    this.#byId.delete(id);
  }
}
