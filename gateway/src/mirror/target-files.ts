import { SitecastError } from '@sitecast/shared/errors';
import { checkTarget, type FoundTarget, targetPath } from '@sitecast/shared/trust';
import { lruCache } from '@sitecast/shared/bounded';
import pLimit from 'p-limit';
import type { Log } from '@sitecast/shared/log';
import type { MirrorStore } from './mirror-store.ts';
import type { Source, Sources } from './sources.ts';

/** Bound of the target files in memory. */
const MAX_MEMORY_BYTES = 64 * 1024 * 1024;
/** The longest target file that is mirrored, a chunk index. */
export const MAX_TARGET_BYTES = 64 * 1024 * 1024;
/** Bound of the files on the disk that devices asked for and no rollout needs. */
const MAX_ON_DEMAND_BYTES = 256 * 1024 * 1024;
const MAX_FETCHES = 4;
/** How long a file that no upstream gave is not asked for again: twice as long each time, for one may be listed that nobody has. */
const MIN_RETRY_MS = 5000;
const MAX_RETRY_MS = 10 * 60_000;
const MAX_REMEMBERED_FAILURES = 10_000;

interface TargetFilesDeps {
  store: MirrorStore;
  sources: Pick<Sources, 'inOrder' | 'failed'>;
  /** Where files for other gateways are fetched from. */
  origin: readonly Source[];
  log: Log;
  onRefused: (url: string, error: SitecastError) => void;
}

interface Failure {
  retryMs: number;
  /** On the monotonic clock. */
  untilMs: number;
}

/** The mirrored target files. Each has the length and the hash that signed metadata names. */
export class TargetFiles {
  readonly #deps: TargetFilesDeps;
  readonly #memory = lruCache<string, Uint8Array>({
    maxBytes: MAX_MEMORY_BYTES,
    bytesOf: bytes => bytes.length + 1,
  });
  readonly #reading = new Map<string, Promise<Uint8Array | undefined>>();
  readonly #fetching = new Map<string, Promise<Uint8Array>>();
  readonly #failed = lruCache<string, Failure>({ max: MAX_REMEMBERED_FAILURES, ttl: 2 * MAX_RETRY_MS });
  readonly #turn = pLimit(MAX_FETCHES);

  constructor(deps: TargetFilesDeps) {
    this.#deps = deps;
  }

  /** The file from memory or disk; undefined where it is not here. A damaged one is deleted. */
  async local(target: FoundTarget): Promise<Uint8Array | undefined> {
    const path = pathOf(target);
    const found = this.#memory.get(path);
    if (found) return found;
    return once(this.#reading, path, () => this.#read(path, target));
  }

  /**
   * The file from here or from the first source that has it. It is fetched once, however many requests ask for it.
   * @throws SITECAST_TARGET_UNAVAILABLE (unreachable), SITECAST_NO_SPACE
   */
  async get(target: FoundTarget): Promise<Uint8Array> {
    const path = pathOf(target);
    const found = await this.local(target);
    if (found) return found;
    if (performance.now() < (this.#failed.get(path)?.untilMs ?? 0)) throw unavailable(target);
    return once(this.#fetching, path, () =>
      this.#turn(() => this.#fetch(path, target, this.#deps.sources.inOrder())),
    );
  }

  /**
   * The same for another gateway that asks: from the origin alone, and not from what is being fetched already, which may be what that gateway is
   * asked for. So no request goes in a circle.
   */
  async getForGateway(target: FoundTarget): Promise<Uint8Array> {
    const path = pathOf(target);
    const found = await this.local(target);
    if (found) return found;
    if (performance.now() < (this.#failed.get(path)?.untilMs ?? 0)) throw unavailable(target);
    return once(this.#fetching, `for a gateway: ${path}`, () =>
      this.#turn(() => this.#fetch(path, target, this.#deps.origin)),
    );
  }

  /** Fetches those of the files that are not here yet. @throws as `get`, for the first that fails */
  async ensure(targets: readonly FoundTarget[]): Promise<void> {
    await Promise.all(
      targets.map(target => {
        this.#askAgain(pathOf(target));
        return this.get(target);
      }),
    );
  }

  /** Keeps a file that was made here. @throws SITECAST_TARGET_MISMATCH and others of `checkTarget` where it isn't that target; SITECAST_NO_SPACE */
  async adopt(target: FoundTarget, bytes: Uint8Array): Promise<void> {
    checkTarget(target, bytes);
    await this.#keep(pathOf(target), bytes);
  }

  /** Deletes files that no set lists any more, and the oldest of those that no rollout needs. */
  async collect(isListed: (path: string) => boolean, isNeeded: (path: string) => boolean): Promise<void> {
    let keptBytes = 0;
    const files = await this.#deps.store.listTargets();
    for (const { path, lengthBytes } of files.sort((one, other) => other.modifiedMs - one.modifiedMs)) {
      if (isNeeded(path)) continue;
      keptBytes += lengthBytes;
      if (isListed(path) && keptBytes <= MAX_ON_DEMAND_BYTES) continue;
      this.#memory.delete(path);
      await this.#deps.store.removeTarget(path);
    }
  }

  async #read(path: string, target: FoundTarget): Promise<Uint8Array | undefined> {
    const { store, log } = this.#deps;
    const bytes = await store.readTarget(path, Math.min(target.file.length, MAX_TARGET_BYTES));
    if (bytes === undefined) return undefined;
    try {
      checkTarget(target, bytes);
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      log.warn({ target: target.name, code: error.code }, 'a mirrored file is damaged; it is fetched again');
      await store.removeTarget(path);
      return undefined;
    }
    this.#memory.set(path, bytes);
    return bytes;
  }

  /** Whoever calls has a backoff of its own. */
  #askAgain(path: string): void {
    const failure = this.#failed.get(path);
    if (failure) this.#failed.set(path, { ...failure, untilMs: 0 });
  }

  async #keep(path: string, bytes: Uint8Array): Promise<void> {
    await this.#deps.store.writeTarget(path, bytes);
    this.#failed.delete(path);
    this.#memory.set(path, bytes);
  }

  async #fetch(path: string, target: FoundTarget, sources: readonly Source[]): Promise<Uint8Array> {
    const { log, onRefused, sources: all } = this.#deps;
    const maxBytes = target.file.length;
    if (maxBytes > MAX_TARGET_BYTES) throw unavailable(target);
    let last: unknown;
    for (const source of sources) {
      const { url, targets } = source;
      try {
        const bytes = await targets.fetch(path, { maxBytes });
        if (bytes === undefined) continue;
        checkTarget(target, bytes);
        await this.#keep(path, bytes);
        return bytes;
      } catch (error) {
        if (!(error instanceof SitecastError) || error.kind === 'noSpace') throw error;
        if (error.kind === 'untrusted' || error.kind === 'tooLarge') onRefused(url, error);
        all.failed(source, error);
        log.warn(
          { upstream: url, target: target.name, code: error.code, detail: error.message, hint: error.hint },
          'an upstream did not give a file',
        );
        last = error;
      }
    }
    const retryMs = Math.min(MAX_RETRY_MS, 2 * (this.#failed.get(path)?.retryMs ?? MIN_RETRY_MS / 2));
    this.#failed.set(path, { retryMs, untilMs: performance.now() + retryMs });
    throw unavailable(target, last);
  }
}

function pathOf({ name, file }: FoundTarget): string {
  return targetPath(name, file.hashes.sha256);
}

/** One call of `make` for all requests for a key while it is under way. */
function once<T>(underWay: Map<string, Promise<T>>, key: string, make: () => Promise<T>): Promise<T> {
  const found = underWay.get(key);
  if (found) return found;
  const making = make().finally(() => underWay.delete(key));
  underWay.set(key, making);
  return making;
}

function unavailable({ name }: FoundTarget, cause?: unknown): SitecastError {
  return new SitecastError(
    'unreachable',
    'SITECAST_TARGET_UNAVAILABLE',
    `the file ${JSON.stringify(name)} is not here yet, and no upstream gives it`,
    { data: { target: name }, cause },
  );
}
