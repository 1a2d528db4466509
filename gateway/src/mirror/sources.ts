import { lruCache } from '@sitecast/shared/bounded';
import { SitecastError } from '@sitecast/shared/errors';
import type { MetadataFetcher } from '@sitecast/shared/trust';

/** One place that the repository's files come from: an upstream over HTTP, or a gateway of the fleet's network. */
export interface Source {
  readonly url: string;
  /** Below /metadata/. */
  readonly metadata: MetadataFetcher;
  /** Below /targets/. */
  readonly targets: MetadataFetcher;
}

/** Another gateway, or the origin, has announced something newer. */
export interface News {
  /** Its id in the fleet's network. */
  readonly from: string;
  /** Version of the timestamp; undefined where a newer root is announced, by which alone the timestamp can be verified. */
  readonly version: number | undefined;
  /** Signed metadata that came with the announcement, by its name below /metadata/. The timestamp is one of them. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** Members of the fleet's network that this gateway is connected with. */
export interface FleetNeighbours<N extends Source = Source> {
  /** Those that may give files over their connection, the best first. */
  ids(): readonly string[];
  source(id: string): N;
}

/** Neighbours that are asked beside the one that announced, and the ones that are asked at one time for the newest timestamp. */
const MAX_ASKED = 3;
/** How long a neighbour isn't asked that gave nothing, or something wrong. */
const REST_MS = 5 * 60_000;
const MAX_RESTING = 1000;
const MAX_TIMESTAMP_BYTES = 16 * 1024;
/** The time that the three together have to say which timestamp they have. */
const NEWEST_WITHIN_MS = 5000;
const TIMESTAMP = 'timestamp.json';

/**
 * Where files come from, in the order in which it is tried. Neighbours are asked where one of them has announced something newer, and where
 * no upstream answers: the origin's line is the one that is measured, and a site's neighbours pay for what they give.
 */
export class Sources {
  readonly #upstreams: readonly Source[];
  readonly #neighbours: FleetNeighbours | undefined;
  readonly #resting = lruCache<string, true>({ max: MAX_RESTING, ttl: REST_MS });
  #followed: Source | undefined;

  constructor(upstreams: readonly Source[], neighbours: FleetNeighbours | undefined) {
    this.#upstreams = upstreams;
    this.#neighbours = neighbours;
  }

  /** The sources of one round, one after the other; the next is tried where one has failed. */
  async *forRound(news: News | undefined, signal: AbortSignal): AsyncGenerator<Source> {
    if (news !== undefined) yield* this.#announced(news);
    yield* this.#upstreams;
    yield* await this.#newest(signal);
  }

  /** For a file of a set that is known: the source that the set comes from, then all others. */
  inOrder(): Source[] {
    const first = this.#followed;
    const others = [...this.#upstreams, ...this.#awake().map(id => this.#source(id))];
    return first === undefined ? others : [first, ...others.filter(({ url }) => url !== first.url)];
  }

  /** From now on this one is asked first. */
  follow(source: Source): void {
    this.#followed = source;
  }

  /** Notes why a source gave nothing: a neighbour that is out of reach, or gives what is wrong, rests. */
  failed(source: Source, error: SitecastError): void {
    const isBehind =
      error.code === 'SITECAST_METADATA_ROLLBACK' || error.code === 'SITECAST_METADATA_EXPIRED';
    if (!isBehind && error.kind !== 'noSpace') this.#resting.set(source.url, true);
  }

  *#announced(news: News): Generator<Source> {
    const others = this.#awake().filter(id => id !== news.from);
    const from = this.#source(news.from);
    const inlined = [...news.files.keys()].some(name => name !== TIMESTAMP);
    if (!this.#resting.has(from.url) || inlined) yield withFiles(from, news.files);
    for (const id of others.slice(0, MAX_ASKED - 1)) yield withFiles(this.#source(id), news.files);
  }

  /**
   * Asks three neighbours at once for their timestamps, which aren't verified here.
   * @returns those that answered, with the timestamp that each gave, the newest first: so one that is behind, or was frozen, holds up nothing
   */
  async #newest(signal: AbortSignal): Promise<Source[]> {
    const stop = AbortSignal.any([signal, AbortSignal.timeout(NEWEST_WITHIN_MS)]);
    // By chance: three that were frozen must not be the ones that are always asked.
    const asked = shuffled(this.#awake())
      .slice(0, MAX_ASKED)
      .map(async id => {
        const source = this.#source(id);
        try {
          const bytes = await source.metadata.fetch(TIMESTAMP, {
            maxBytes: MAX_TIMESTAMP_BYTES,
            signal: stop,
          });
          return bytes && { source: withFiles(source, new Map([[TIMESTAMP, bytes]])), bytes };
        } catch (error) {
          if (error instanceof SitecastError) this.failed(source, error);
          else if (!stop.aborted) throw error;
          else if (!signal.aborted) this.#resting.set(source.url, true);
          return undefined;
        }
      });
    const answers = (await Promise.all(asked)).filter(answer => answer !== undefined);
    signal.throwIfAborted();
    return answers
      .sort((one, other) => claimedVersion(other.bytes) - claimedVersion(one.bytes))
      .map(({ source }) => source);
  }

  #awake(): string[] {
    const neighbours = this.#neighbours;
    return neighbours?.ids().filter(id => !this.#resting.has(neighbours.source(id).url)) ?? [];
  }

  #source(id: string): Source {
    if (this.#neighbours === undefined) throw new TypeError('this gateway has no neighbours');
    return this.#neighbours.source(id);
  }
}

function shuffled<T>(list: readonly T[]): T[] {
  const keyed = list.map(item => ({ item, key: Math.random() }));
  return keyed.sort((one, other) => one.key - other.key).map(({ item }) => item);
}

/** A source that has some metadata already. */
function withFiles(source: Source, files: ReadonlyMap<string, Uint8Array>): Source {
  return {
    ...source,
    metadata: {
      fetch: async (path, options) => files.get(path) ?? (await source.metadata.fetch(path, options)),
    },
  };
}

/** The version that a timestamp claims, which isn't verified here; 0 where it can't be read. */
export function claimedVersion(timestamp: Uint8Array): number {
  try {
    const { signed } = JSON.parse(Buffer.from(timestamp).toString('utf8'));
    return Number.isSafeInteger(signed.version) ? signed.version : 0;
  } catch {
    return 0;
  }
}
