import type { Referenced } from '../../repository/repository-store.ts';
import type { Files } from './files.ts';
import { METADATA, metadataFile, targetFile, TARGETS } from './layout.ts';

/** How long a file stays after the metadata stopped referring to it: clients may be in the midst of a refresh. */
const SUPERSEDED_KEPT_MS = 24 * 3_600_000;
const VERSIONED = /^\d+\.(?:targets|snapshot|rollouts|deltas)\.json$/;

/**
 * Deletes metadata versions and target files that nothing refers to any more. Every root stays. The time counts from when
 * this process first saw a file unreferenced; after a restart a file just stays longer.
 */
export class Superseded {
  readonly #files: Files;
  #since = new Map<string, number>();

  constructor(files: Files) {
    this.#files = files;
  }

  /** @returns how many files were deleted */
  async prune({ metadata, targets }: Referenced, nowMs: number): Promise<number> {
    const referenced = new Set([
      ...metadata.map(({ role, version }) => metadataFile(role, version)),
      ...targets.map(targetFile),
    ]);
    const since = new Map<string, number>();
    let removed = 0;
    for await (const path of this.#candidates()) {
      if (referenced.has(path)) continue;
      const firstSeenMs = this.#since.get(path) ?? nowMs;
      if (nowMs - firstSeenMs < SUPERSEDED_KEPT_MS) {
        since.set(path, firstSeenMs);
        continue;
      }
      await this.#files.remove(path);
      removed += 1;
    }
    this.#since = since;
    return removed;
  }

  async *#candidates(): AsyncGenerator<string> {
    for await (const { name } of this.#files.list(METADATA)) {
      if (VERSIONED.test(name)) yield `${METADATA}/${name}`;
    }
    for (const folder of await this.#files.listDirectories(TARGETS)) {
      for await (const { name } of this.#files.list(`${TARGETS}/${folder}`))
        yield `${TARGETS}/${folder}/${name}`;
    }
  }
}
