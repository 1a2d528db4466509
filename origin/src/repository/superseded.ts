import { metadataPath, targetPath } from '@sitecast/shared/trust';
import type { Files } from '../storage/files.ts';
import { type Committed, METADATA, ROLES, TARGETS } from './committed.ts';

/** How long a file stays after the metadata stopped referring to it: clients may be in the midst of a refresh. */
const SUPERSEDED_KEPT_MS = 24 * 3_600_000;
const VERSIONED = /^\d+\.(?:targets|snapshot|rollouts|deltas)\.json$/;

/**
 * Deletes metadata versions and target files that nothing refers to any more. Every root stays: clients walk
 * through all of them. The time counts from when this process first saw a file unreferenced; a restart just
 * makes it stay longer.
 */
export class Superseded {
  readonly #files: Files;
  #since = new Map<string, number>();

  constructor(files: Files) {
    this.#files = files;
  }

  /** @returns how many files were deleted */
  async sweep(committed: Committed, nowMs: number): Promise<number> {
    const referenced = referencedPaths(committed);
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

function referencedPaths(committed: Committed): Set<string> {
  const paths = new Set<string>();
  for (const role of ROLES) paths.add(`${METADATA}/${metadataPath(role, committed[role].signed.version)}`);
  for (const { signed } of [committed.targets, committed.rollouts, committed.deltas]) {
    for (const [name, { hashes }] of Object.entries(signed.targets)) {
      for (const digest of Object.values(hashes)) paths.add(`${TARGETS}/${targetPath(name, digest)}`);
    }
  }
  return paths;
}
