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

/** The time that a neighbour has for all metadata of one round; at most some 10 MiB, most often a few hundred KiB, over thin lines. */
const METADATA_WITHIN_MS = 2 * 60_000;
/** The time that a neighbour has for a target file: that for a short one, and more by its length. */
const FILE_WITHIN_MS = 30_000;
const LEAST_FILE_BYTES_PER_MS = 1;

/**
 * Once so much time is over without an answer, the next source is asked for a target file as well; and where an upstream answers, that one for
 * metadata that a neighbour has announced.
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

// Sender: any member of the fleet's network, under as many ids as it has certificates. The worst: it announces what is rightly signed first,
// and drips each file. So target files come from an upstream where one answers, and nobody is waited for alone.

/**
 * Where files come from, in the order in which it is tried. Neighbours are asked for metadata where one of them has announced something newer;
 * for all files where no upstream answers.
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

  /** The sources of one round, one after the other; the next is tried where one has failed. */
  async *forRound(news: News | undefined, signal: AbortSignal): AsyncGenerator<Source> {
    if (news !== undefined) {
      const hasUpstream = this.#upstreams.some(({ url }) => !this.#silent.has(url));
      const announced = [...this.#announced(news)];
      yield* hasUpstream ? inTime(announced.slice(0, 1), NEXT_AFTER_MS) : inTime(announced);
    }
    yield* this.#upstreams;
    yield* inTime(await this.#newest(signal));
  }

  /** For the first root: all upstreams; and three neighbours, drawn by chance from those that don't rest. */
  forFirstRoot(): { upstreams: readonly Source[]; neighbours: readonly Source[] } {
    return { upstreams: this.#upstreams, neighbours: this.#drawn().slice(0, MAX_ASKED) };
  }

  /**
   * For a file of a set that is known: upstreams that answer, the source that the set comes from, three neighbours that are drawn by
   * chance, the other upstreams. An upstream that the set comes from is the first.
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

  /** From now on the set comes from this one. */
  follow(source: Source): void {
    this.#followed = source;
    this.answered(source);
  }

  /** Notes that a source has given what was asked for, or has said that it hasn't got it. */
  answered({ url }: Source): void {
    this.#silent.delete(url);
  }

  /** Notes why a source gave nothing: a neighbour that is out of reach, or gives what is wrong, rests. An upstream comes after neighbours. */
  failed(source: Source, error: SitecastError): void {
    if (this.#isUpstream(source) && !isBehind(error)) this.#silent.add(source.url);
    this.#newestSources.failed(source, error);
  }

  *#announced(news: News): Generator<Source> {
    const others = this.#usable().filter(id => id !== news.from);
    const from = this.#source(news.from);
    const inlined = [...news.files.keys()].some(name => name !== TIMESTAMP);
    // Where nobody else can have it, one that rests is asked, too.
    if (!this.#newestSources.isResting(from) || inlined || others.length === 0)
      yield withFiles(from, news.files);
    for (const id of others.slice(0, MAX_ASKED - 1)) yield withFiles(this.#source(id), news.files);
  }

  /** Neighbours that answered, of three drawn by chance, those first that claim the newest timestamp. */
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

/** A drip of bytes ends, too. */
function filesInTime(neighbours: readonly Source[]): Source[] {
  const limitMsOf = (lengthBytes: number): number =>
    FILE_WITHIN_MS + Math.ceil(lengthBytes / LEAST_FILE_BYTES_PER_MS);
  return neighbours.map(source => withFilesInTime(source, limitMsOf));
}

/** Each has its time from when it is asked. */
function* inTime(neighbours: Iterable<Source>, limitMs = METADATA_WITHIN_MS): Generator<Source> {
  for (const source of neighbours) yield withinTime(source, limitMs);
}
