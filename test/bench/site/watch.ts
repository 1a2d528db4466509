import { readFileSync, watch } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';

const FILE = 'state.json';
const memory = z.looseObject({
  update: z.looseObject({ phase: z.string(), rollout: z.looseObject({ id: z.string() }) }).nullable(),
});

/**
 * When devices began an update and when they had verified it, read from a file that they write themselves: `state.json` is replaced (and
 * fsynced) just before the first byte is fetched, and just after the slot was read back and found right. inotify reports that within about
 * a millisecond.
 */
export class UpdateWatch {
  readonly #begunAt = new Map<string, number>();
  readonly #verifiedAt = new Map<string, number>();
  readonly #watchers;

  /** @param agents data directories of the devices */
  constructor(agents: readonly string[]) {
    this.#watchers = agents.map(directory =>
      watch(directory, (_, file) => {
        if (file === FILE) this.#look(directory);
      }),
    );
  }

  /** By `performance.now()`, in ms: when the first device began; undefined before that. */
  get begunAt(): number | undefined {
    return this.#begunAt.size > 0 ? Math.min(...this.#begunAt.values()) : undefined;
  }

  get verifiedCount(): number {
    return this.#verifiedAt.size;
  }

  /** When the last device that has verified the update had done so. */
  get lastVerifiedAt(): number {
    return Math.max(...this.#verifiedAt.values());
  }

  close(): void {
    for (const watcher of this.#watchers) watcher.close();
  }

  #look(agent: string): void {
    const now = performance.now();
    let text: string;
    try {
      text = readFileSync(join(agent, FILE), 'utf8');
    } catch {
      // It is being replaced by a rename, and will be there at the next event.
      return;
    }
    const { update } = memory.parse(JSON.parse(text));
    if (!update) return;
    if (!this.#begunAt.has(agent)) this.#begunAt.set(agent, now);
    if (update.phase !== 'downloading' && !this.#verifiedAt.has(agent)) this.#verifiedAt.set(agent, now);
  }
}
