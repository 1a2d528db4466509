import { type Answer, askInTurn } from '../../async/index.ts';
import { lruCache, type LruCache } from '../../bounded/lru-cache.ts';
import { SitecastError } from '../../errors.ts';
import type { Chunk } from '../chunk.ts';
import { type ChunkId, chunkIdToHex } from '../chunk-id.ts';
import { type ChunkRequest, type ChunkStore, chunkNotFound, isNotFound } from './chunk-store.ts';

/** For `failover`: how long a store that failed rests, in ms. */
const DEFAULT_REST_MS = 10_000;
/** How many resting stores are remembered, if stores come and go. */
const MAX_RESTING = 64;

/** Stores in the order in which to ask them. A function if they come and go; it must return the same object for the same store. */
export type ChunkSources = readonly ChunkStore[] | (() => readonly ChunkStore[]);

export interface SourceSelectorOptions {
  /** How long a source rests that failed, or was slower than the next one, in ms. A resting source is asked last. */
  readonly restMs: number;
  /** After this time without an answer, in ms, the next source is asked as well. Default: it isn't. */
  readonly hedgeAfterMs?: number;
  /** Whether each chunk is verified by its id before it counts as an answer. Default: the sources do that. */
  readonly verifies?: boolean;
  /**
   * What a source gets that gave wrong bytes. `pass` (default): it is passed over for this chunk. `rest`: it is asked last for `restMs`.
   * `exclude`: it isn't asked at all for `restMs`, not even where no other source is left. `ban`: it isn't asked again.
   */
  readonly wrongBytes?: 'pass' | 'rest' | 'exclude' | 'ban';
  /** One that lacks a chunk is asked last for as long, too: for sources that should have all of them. */
  readonly restsWhereAbsent?: boolean;
  /** How many sources are asked for one chunk. Default: all. */
  readonly maxAsked?: number;
  /** Called when a source was banned. */
  readonly onBan?: (source: string, error: SitecastError) => void;
  /** Milliseconds on a clock that never goes back. */
  readonly now?: () => number;
  readonly sleep?: (lengthMs: number, signal: AbortSignal) => Promise<unknown>;
}

interface Rest {
  /** True if it answers, but others were faster: then an answer doesn't end its rest. */
  readonly isSlow: boolean;
}

/**
 * Which of several sources is asked for a chunk, and when. They are asked in their order; those that rest come last, those that are
 * excluded or banned never. The next one is asked as soon as the one before has failed, or has taken too long. The first right answer counts,
 * and the others are called off.
 */
export class SourceSelector {
  readonly #sources: () => readonly ChunkStore[];
  readonly #options: SourceSelectorOptions;
  readonly #rests: LruCache<ChunkStore, Rest>;
  /** By name: one that leaves and comes back is the same source. Apart from `#rests`, so that others that rest displace none. */
  readonly #excluded: LruCache<string, SitecastError>;
  readonly #banned = new Map<ChunkStore, SitecastError>();

  constructor(sources: ChunkSources, options: SourceSelectorOptions) {
    this.#sources = typeof sources === 'function' ? sources : () => sources;
    this.#options = options;
    const { restMs, now = () => performance.now() } = options;
    const max = typeof sources === 'function' ? MAX_RESTING : Math.max(1, sources.length);
    this.#rests = lruCache({ max, ttl: restMs, now });
    this.#excluded = lruCache({ max, ttl: restMs, now });
  }

  /** The sources that sent wrong bytes, with the error's code. */
  get banned(): readonly { source: string; code: string }[] {
    return [...this.#banned].map(([{ name }, { code }]) => ({ source: name, code }));
  }

  get areAllBanned(): boolean {
    const count = this.#sources().length;
    return count > 0 && this.#banned.size === count;
  }

  /**
   * @param failures receives the error of each source that failed
   * @returns undefined where no source has the chunk
   * @throws the signal's reason; errors other than SitecastError
   */
  async get(
    id: ChunkId,
    request: ChunkRequest,
    failures: Map<string, SitecastError>,
  ): Promise<Chunk | undefined> {
    const { into, ...others } = request;
    const { lengthBytes } = request;
    // Two requests at the same time must not both write to `into`.
    const asked = this.#sources().length > 1 ? others : request;
    return await this.#ask(
      (source, signal) => source.get(id, { ...asked, ...(signal && { signal }) }),
      chunk => (this.#options.verifies ? chunk.verify(lengthBytes, into) : chunk),
      request.signal,
      failures,
    );
  }

  /** @returns whether one of the sources has the chunk; otherwise like `get` */
  async has(id: ChunkId, request: ChunkRequest, failures: Map<string, SitecastError>): Promise<boolean> {
    const found = await this.#ask(
      async (source, signal) => (await source.has(id, signal && { signal })) || undefined,
      has => has,
      request.signal,
      failures,
    );
    return found ?? false;
  }

  #inOrder(): ChunkStore[] {
    const usable = this.#sources().filter(
      source => !this.#banned.has(source) && !this.#excluded.has(source.name),
    );
    // Where only some are asked, those that rest take turns: the one whose rest is the oldest comes first.
    const resting = [...this.#rests.rkeys()].filter(source => usable.includes(source));
    const inOrder = [...usable.filter(source => !resting.includes(source)), ...resting];
    return inOrder.slice(0, this.#options.maxAsked);
  }

  async #ask<T>(
    question: (source: ChunkStore, signal: AbortSignal | undefined) => Promise<T | undefined>,
    accept: (found: T) => T,
    signal: AbortSignal | undefined,
    failures: Map<string, SitecastError>,
  ): Promise<T | undefined> {
    const { hedgeAfterMs, sleep } = this.#options;
    const answer = await askInTurn(this.#inOrder(), question, {
      accept: (given: Answer<ChunkStore, T>) => this.#accepted(given, accept, failures),
      signal,
      hedgeAfterMs,
      sleep,
    });
    for (const overtaken of answer?.overtaken ?? []) this.#rest(overtaken, true);
    if (answer?.accepted === undefined) this.#addExcluded(failures);
    return answer?.accepted;
  }

  /** Those that are excluded count as failed: they may have what the others lack. */
  #addExcluded(failures: Map<string, SitecastError>): void {
    for (const { name } of this.#sources()) {
      const error = this.#excluded.get(name);
      if (error !== undefined && !failures.has(name)) failures.set(name, error);
    }
  }

  /** @returns undefined where the source has failed, or hasn't got it */
  #accepted<T>(
    answer: Answer<ChunkStore, T>,
    accept: (found: T) => T,
    failures: Map<string, SitecastError>,
  ): T | undefined {
    const { source } = answer;
    try {
      if ('error' in answer) throw answer.error;
      const accepted = answer.found === undefined ? undefined : accept(answer.found);
      this.#noteAnswer(source);
      return accepted;
    } catch (error) {
      failures.set(source.name, this.#failed(source, error));
      return undefined;
    }
  }

  #noteAnswer(source: ChunkStore): void {
    if (this.#rests.peek(source)?.isSlow === false) this.#rests.delete(source);
  }

  #rest(source: ChunkStore, isSlow: boolean): void {
    this.#rests.set(source, { isSlow });
  }

  #failed(source: ChunkStore, error: unknown): SitecastError {
    if (!(error instanceof SitecastError)) throw error;
    if (isNotFound(error)) {
      if (this.#options.restsWhereAbsent === true) this.#rest(source, false);
      return error;
    }
    const { wrongBytes = 'pass' } = this.#options;
    if (!isWrongBytes(error) || wrongBytes === 'rest') this.#rest(source, false);
    else if (wrongBytes === 'exclude') this.#excluded.set(source.name, error);
    else if (wrongBytes === 'ban') this.#ban(source, error);
    return error;
  }

  #ban(source: ChunkStore, error: SitecastError): void {
    if (this.#banned.has(source)) return;
    this.#banned.set(source, error);
    this.#options.onBan?.(source.name, error);
  }
}

/** Whether the source sent something else than the chunk: wrong bytes, or a frame longer than any chunk's. */
export function isWrongBytes({ kind }: SitecastError): boolean {
  return kind === 'untrusted' || kind === 'tooLarge';
}

export interface FailoverOptions
  extends Pick<SourceSelectorOptions, 'now' | 'maxAsked' | 'restsWhereAbsent'> {
  /** How long a store that couldn't be reached rests, in ms. */
  readonly restMs?: number;
  /**
   * As for SourceSelector. With `rest` and `exclude` a store that gave wrong bytes counts as one that couldn't be reached, with `pass`
   * (default) as one that lacks the chunk.
   */
  readonly wrongBytes?: 'pass' | 'rest' | 'exclude';
  /** How messages call all of them together. Default: the names of all. */
  readonly name?: string;
}

/**
 * Asks an ordered list of stores until one has the chunk. A store that lacks it, can't be reached or sends wrong bytes (wrap it in
 * `verifying`) is skipped for the next one; one that couldn't be reached rests, so that not every chunk waits for it. If none has the
 * chunk, the error says what might help: SITECAST_STORE_UNREACHABLE if one counts as unreachable, else SITECAST_CHUNK_MISMATCH or
 * SITECAST_FRAME_TOO_LARGE if one sent wrong bytes, else SITECAST_CHUNK_NOT_FOUND.
 */
export function failover(stores: ChunkSources, options: FailoverOptions = {}): ChunkStore {
  const selector = new SourceSelector(stores, { restMs: DEFAULT_REST_MS, ...options });
  const countsAsNotFound = (error: SitecastError): boolean =>
    isNotFound(error) || ((options.wrongBytes ?? 'pass') === 'pass' && isWrongBytes(error));
  const allFailed = (id: ChunkId, errors: readonly SitecastError[]): SitecastError => {
    if (!errors.every(countsAsNotFound)) return allUnreachable(id, self, errors);
    return errors.find(isWrongBytes) ?? chunkNotFound(id, self);
  };
  const self: ChunkStore = {
    name:
      options.name ?? (typeof stores === 'function' ? stores() : stores).map(({ name }) => name).join(', '),
    has: async (id, request = {}) => {
      const failures = new Map<string, SitecastError>();
      if (await selector.has(id, request, failures)) return true;
      if (failures.size > 0) throw allFailed(id, [...failures.values()]);
      return false;
    },
    get: async (id, request = {}) => {
      const failures = new Map<string, SitecastError>();
      const chunk = await selector.get(id, request, failures);
      if (!chunk) throw allFailed(id, [...failures.values()]);
      return chunk;
    },
  };
  return self;
}

function allUnreachable(id: ChunkId, store: ChunkStore, errors: readonly SitecastError[]): SitecastError {
  const hex = chunkIdToHex(id);
  return new SitecastError(
    'unreachable',
    'SITECAST_STORE_UNREACHABLE',
    `nobody gave chunk ${hex}: ${store.name}`,
    {
      data: { id: hex, store: store.name },
      cause: new AggregateError(errors),
    },
  );
}
