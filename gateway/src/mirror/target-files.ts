import { SitecastError } from '@sitecast/shared/errors';
import { checkTarget, type FoundTarget, targetPath } from '@sitecast/shared/trust';
import { lruCache } from '@sitecast/shared/bounded';
import pLimit, { type LimitFunction } from 'p-limit';
import type { Log } from '@sitecast/shared/log';
import { type Answer, askInTurn } from '@sitecast/shared/async';
import type { MirrorStore } from './mirror-store.ts';
import { SharedFetches } from './shared-fetches.ts';
import { NEXT_AFTER_MS, type Source, type Sources } from './sources.ts';

/** Bound of the target files in memory. */
const MAX_MEMORY_BYTES = 64 * 1024 * 1024;
/** The longest target file that is mirrored, a chunk index. */
export const MAX_TARGET_BYTES = 64 * 1024 * 1024;
/** Bound of the files on disk that devices requested and no rollout needs. */
const MAX_ON_DEMAND_BYTES = 256 * 1024 * 1024;
const MAX_FETCHES = 4;
/**
 * In addition to `NEXT_AFTER_MS`, how long a file may take before the next source is asked as well: 1 ms for this many bytes. So a slow
 * link isn't divided at once.
 */
const EXPECTED_BYTES_PER_MS = 16;
/** How long a file that no upstream has sent is not requested again. The time doubles, because a listed file may not exist anywhere. */
const MIN_RETRY_MS = 5000;
const MAX_RETRY_MS = 10 * 60_000;
const MAX_REMEMBERED_FAILURES = 10_000;

interface TargetFilesDeps {
  store: MirrorStore;
  sources: Pick<Sources, 'inOrder' | 'failed' | 'answered'>;
  /** Where files for other gateways are fetched from. */
  origin: readonly Source[];
  log: Log;
  onRefused: (url: string, error: SitecastError) => void;
  /** After how long the next source is asked as well for a file of this length. */
  nextAfterMs?: (lengthBytes: number) => number;
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
  readonly #fetching = new SharedFetches();
  readonly #failed = lruCache<string, Failure>({ max: MAX_REMEMBERED_FAILURES, ttl: 2 * MAX_RETRY_MS });
  readonly #turn = pLimit(MAX_FETCHES);

  constructor(deps: TargetFilesDeps) {
    this.#deps = deps;
  }

  /** The file from memory or disk; undefined if it isn't there. A damaged one is deleted. */
  async local(target: FoundTarget): Promise<Uint8Array | undefined> {
    const path = pathOf(target);
    const found = this.#memory.get(path);
    if (found) return found;
    return once(this.#reading, path, () => this.#read(path, target));
  }

  /**
   * The file from here, or from the first source that has it. It is fetched once, however many requests ask for it.
   * @throws SITECAST_TARGET_UNAVAILABLE (unreachable), SITECAST_NO_SPACE; the signal's reason
   */
  async get(target: FoundTarget, signal?: AbortSignal): Promise<Uint8Array> {
    return await this.#get(target, { turn: this.#turn, signal });
  }

  /**
   * The same for another gateway: only from the origin, without joining a fetch that is under way, which may be a request to that same
   * gateway. So no request goes in a circle.
   */
  async getForGateway(target: FoundTarget): Promise<Uint8Array> {
    const { origin } = this.#deps;
    return await this.#get(target, { turn: this.#turn, key: 'for a gateway: ', sources: () => origin });
  }

  /**
   * Fetches those of the files that are missing.
   * @param signal ends the wait. Running fetches go on for a while
   * @throws like `get`, for the first that fails
   */
  async ensure(targets: readonly FoundTarget[], signal?: AbortSignal): Promise<void> {
    // A limit of its own, so that fetches of an interrupted round don't delay this one.
    const turn = pLimit(MAX_FETCHES);
    await Promise.all(
      targets.map(target => {
        this.#askAgain(pathOf(target));
        return this.#get(target, { turn, signal });
      }),
    );
  }

  async #get(
    target: FoundTarget,
    {
      turn,
      signal,
      key = '',
      sources = () => this.#deps.sources.inOrder(),
    }: {
      turn: LimitFunction;
      signal?: AbortSignal | undefined;
      key?: string;
      sources?: () => readonly Source[];
    },
  ): Promise<Uint8Array> {
    const path = pathOf(target);
    const found = await this.local(target);
    if (found) return found;
    if (performance.now() < (this.#failed.get(path)?.untilMs ?? 0)) throw unavailable(target);
    const make = (stop: AbortSignal): Promise<Uint8Array> =>
      turn(() => this.#fetch(path, target, { sources: sources(), stop }));
    return await this.#fetching.get(key + path, make, signal);
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

  /** Callers have a backoff of their own. */
  #askAgain(path: string): void {
    const failure = this.#failed.get(path);
    if (failure) this.#failed.set(path, { ...failure, untilMs: 0 });
  }

  async #keep(path: string, bytes: Uint8Array): Promise<void> {
    await this.#deps.store.writeTarget(path, bytes);
    this.#failed.delete(path);
    this.#memory.set(path, bytes);
  }

  async #fetch(
    path: string,
    target: FoundTarget,
    { sources, stop }: { sources: readonly Source[]; stop: AbortSignal },
  ): Promise<Uint8Array> {
    const { sources: all, nextAfterMs = defaultNextAfterMs } = this.#deps;
    const maxBytes = target.file.length;
    if (maxBytes > MAX_TARGET_BYTES) throw unavailable(target);
    const hedgeAfterMs = nextAfterMs(maxBytes);
    let last: unknown;
    const accept = (answer: Answer<Source, Uint8Array>): Uint8Array | undefined => {
      try {
        if ('error' in answer) throw answer.error;
        if (answer.found !== undefined) checkTarget(target, answer.found);
        all.answered(answer.source);
        return answer.found;
      } catch (error) {
        this.#noteFailure(answer.source, target, error);
        last = error;
        return undefined;
      }
    };
    const answer = await askInTurn(
      sources,
      (source, signal) => source.targets.fetch(path, { maxBytes, signal }),
      { accept, signal: stop, hedgeAfterMs },
    );
    for (const source of answer?.overtaken ?? [])
      this.#noteFailure(source, target, overtaken(source, hedgeAfterMs));
    if (answer) {
      await this.#keep(path, answer.accepted);
      return answer.accepted;
    }
    const retryMs = Math.min(MAX_RETRY_MS, 2 * (this.#failed.get(path)?.retryMs ?? MIN_RETRY_MS / 2));
    this.#failed.set(path, { retryMs, untilMs: performance.now() + retryMs });
    throw unavailable(target, last);
  }

  #noteFailure(source: Source, { name }: FoundTarget, error: unknown): void {
    const { log, onRefused, sources } = this.#deps;
    if (!(error instanceof SitecastError)) throw error;
    const { url } = source;
    const { kind, code, message: detail, hint } = error;
    if (kind === 'untrusted' || kind === 'tooLarge') onRefused(url, error);
    sources.failed(source, error);
    log.warn({ upstream: url, target: name, code, detail, hint }, 'an upstream did not give a file');
  }
}

function defaultNextAfterMs(lengthBytes: number): number {
  return NEXT_AFTER_MS + Math.ceil(lengthBytes / EXPECTED_BYTES_PER_MS);
}

function overtaken({ url }: Source, afterMs: number): SitecastError {
  return new SitecastError(
    'unreachable',
    'SITECAST_UPSTREAM_UNREACHABLE',
    `${url}: a file did not come within ${afterMs} ms, and another source gave it`,
  );
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
