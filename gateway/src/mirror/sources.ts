import type { SitecastError } from '@sitecast/shared/errors';
import {
  isBehind,
  MAX_ASKED,
  NewestSources,
  type RepositorySource,
  shuffled,
  TIMESTAMP,
  withFiles,
  withFilesInTime,
  withinTime,
} from '@sitecast/shared/upstream';

/** How long a neighbour may take for all metadata of a round: at most some 10 MiB, usually a few hundred KiB, over thin links. */
const METADATA_WITHIN_MS = 2 * 60_000;
/** How long a neighbour may take for a short target file. A longer one gets more time. */
const FILE_WITHIN_MS = 30_000;
const LEAST_FILE_BYTES_PER_MS = 1;

/**
 * After this long without an answer, the next source of a target file is asked as well; and an upstream that answers is asked for metadata
 * that a neighbour has announced.
 */
export const NEXT_AFTER_MS = 10_000;

/** An upstream over HTTP, or a gateway of the fleet's network. */
export type Source = RepositorySource;

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

// Sender: any member of the fleet's network, under as many ids as it has certificates. The worst: it is the first to announce a valid set,
// and sends each file very slowly. So target files are fetched from an upstream if one answers, and no neighbour is waited for alone.

/**
 * Where files come from, and in which order. Neighbours are asked for metadata if one of them has announced something newer, and for all
 * files if no upstream answers.
 */
export class Sources {
  readonly #upstreams: readonly Source[];
  readonly #neighbours: FleetNeighbours | undefined;
  readonly #newestSources = new NewestSources();
  /** URLs of upstreams that gave no answer lately, or a wrong one. */
  readonly #silent = new Set<string>();
  #followed: Source | undefined;

  constructor(upstreams: readonly Source[], neighbours: FleetNeighbours | undefined) {
    this.#upstreams = upstreams;
    this.#neighbours = neighbours;
  }

  /** The sources of one round; the next one is tried when one has failed. */
  async *forRound(news: News | undefined, signal: AbortSignal): AsyncGenerator<Source> {
    if (news !== undefined) {
      const hasUpstream = this.#upstreams.some(({ url }) => !this.#silent.has(url));
      const announced = [...this.#announced(news)];
      yield* hasUpstream ? inTime(announced.slice(0, 1), NEXT_AFTER_MS) : inTime(announced);
    }
    yield* this.#upstreams;
    yield* inTime(await this.#newest(signal));
  }

  /** The sources of the first root: all upstreams, and three neighbours, chosen at random from those that haven't failed lately. */
  forFirstRoot(): { upstreams: readonly Source[]; neighbours: readonly Source[] } {
    return { upstreams: this.#upstreams, neighbours: this.#drawn().slice(0, MAX_ASKED) };
  }

  /**
   * The sources for a file of a known set: upstreams that answer, the source that the set came from, three random neighbours, the other
   * upstreams. If the set came from an upstream, that one is the first.
   */
  inOrder(): Source[] {
    const first = this.#usableFirst();
    const firsts = first === undefined ? [] : [first];
    const answering = this.#upstreams.filter(({ url }) => !this.#silent.has(url));
    const neighbours = filesInTime(this.#drawn().slice(0, MAX_ASKED));
    const rest = [...neighbours, ...this.#upstreams];
    const order = this.#isUpstream(first)
      ? [...firsts, ...answering, ...rest]
      : [...answering, ...firsts, ...rest];
    const urls = order.map(({ url }) => url);
    return order.filter(({ url }, at) => urls.indexOf(url) === at);
  }

  #usableFirst(): Source | undefined {
    const followed = this.#followed;
    if (followed === undefined || this.#isUpstream(followed)) return followed;
    return this.#newestSources.isResting(followed) ? undefined : filesInTime([followed])[0];
  }

  #isUpstream(source: Source | undefined): boolean {
    return this.#upstreams.some(({ url }) => url === source?.url);
  }

  /** Called when the set comes from this source from now on. */
  follow(source: Source): void {
    this.#followed = source;
    this.answered(source);
  }

  /** Called when a source has sent a file, or has answered that it lacks it. */
  answered({ url }: Source): void {
    this.#silent.delete(url);
  }

  /**
   * Called when a source has sent nothing. A neighbour that can't be reached or sends wrong bytes isn't asked for a while. An upstream is
   * asked after neighbours.
   */
  failed(source: Source, error: SitecastError): void {
    if (this.#isUpstream(source) && !isBehind(error)) this.#silent.add(source.url);
    this.#newestSources.failed(source, error);
  }

  *#announced(news: News): Generator<Source> {
    const others = this.#usable().filter(id => id !== news.from);
    const from = this.#source(news.from);
    const inlined = [...news.files.keys()].some(name => name !== TIMESTAMP);
    // If no other source can have it, one that failed lately is asked, too.
    if (!this.#newestSources.isResting(from) || inlined || others.length === 0)
      yield withFiles(from, news.files);
    for (const id of others.slice(0, MAX_ASKED - 1)) yield withFiles(this.#source(id), news.files);
  }

  /** Neighbours that answered, of three random ones; those that claim the newest timestamp come first. */
  async #newest(signal: AbortSignal): Promise<Source[]> {
    return (await this.#newestSources.ask(this.#drawn(), signal)).map(({ source }) => source);
  }

  #drawn(): Source[] {
    return shuffled(this.#usable()).map(id => this.#source(id));
  }

  #usable(): string[] {
    const neighbours = (this.#neighbours?.ids() ?? []).map(id => ({ id, url: this.#source(id).url }));
    return this.#newestSources.usable(neighbours).map(({ id }) => id);
  }

  #source(id: string): Source {
    if (this.#neighbours === undefined) throw new TypeError('this gateway has no neighbours');
    return this.#neighbours.source(id);
  }
}

/** The bound also ends a very slow transfer. */
function filesInTime(neighbours: readonly Source[]): Source[] {
  const limitMsOf = (lengthBytes: number): number =>
    FILE_WITHIN_MS + Math.ceil(lengthBytes / LEAST_FILE_BYTES_PER_MS);
  return neighbours.map(source => withFilesInTime(source, limitMsOf));
}

/** Each has its time from when it is asked. */
function* inTime(neighbours: Iterable<Source>, limitMs = METADATA_WITHIN_MS): Generator<Source> {
  for (const source of neighbours) yield withinTime(source, limitMs);
}
