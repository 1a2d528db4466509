import { lruCache } from '@sitecast/shared/bounded';
import { SitecastError } from '@sitecast/shared/errors';
import { shuffled } from '@sitecast/shared/upstream';
import type { ForwardedAnswer, ForwardedRequest, Upstream, UpstreamAnswer } from './upstream.ts';

// Neighbours are any machines with the fleet's key, including a stolen gateway. The worst one answers "no" to everything, or doesn't answer
// in time. It isn't tried again for a while, and neighbours are chosen at random: so a few of them can't keep a site's requests from the
// others.

/** How long an upstream that can't be reached, or a neighbour without a usable answer, is tried after the others. */
const REST_MS = 60_000;
const MAX_RESTING = 1000;
/** Neighbours that are tried for one request. */
const MAX_NEIGHBOURS = 3;

/** Where requests of the site API go. */
export type SiteServer = Pick<Upstream, 'url' | 'ask' | 'forward'>;

/** Sends requests of the site API to the upstreams, in their order, and then to neighbours, until one can answer. */
export class SiteUpstreams {
  readonly #upstreams: readonly SiteServer[];
  readonly #neighbours: () => readonly SiteServer[];
  readonly #resting = lruCache<string, true>({ max: MAX_RESTING, ttl: REST_MS });

  /** @param neighbours gateways that pass a request on to the origin */
  constructor(upstreams: readonly SiteServer[], neighbours: () => readonly SiteServer[] = () => []) {
    this.#upstreams = upstreams;
    this.#neighbours = neighbours;
  }

  /**
   * @returns the first answer with a status below 500
   * @throws SITECAST_UPSTREAM_UNREACHABLE where there is none; `data.hasFailed`: one of them was reached, and failed at this request (500)
   */
  ask(path: string, body?: unknown): Promise<UpstreamAnswer> {
    return this.#first(async (server, isNeighbour) => {
      const answer = await server.ask(path, body);
      return isNeighbour ? withoutVerdicts(answer) : answer;
    });
  }

  /** Passes on a request that a neighbour has signed. @throws as `ask` */
  forward(request: ForwardedRequest): Promise<ForwardedAnswer> {
    return this.#first(server => server.forward(request));
  }

  async #first<T extends { status: number }>(
    ask: (server: SiteServer, isNeighbour: boolean) => Promise<T>,
  ): Promise<T> {
    let last: unknown;
    let hasFailed = false;
    for (const server of this.#inOrder()) {
      const isNeighbour = !this.#upstreams.includes(server);
      try {
        const answer = await ask(server, isNeighbour);
        // Any holder of the fleet's key can say "no" in the origin's name: of neighbours, only success counts, whose content is signed.
        if (answer.status < (isNeighbour ? 300 : 500)) {
          this.#resting.delete(server.url);
          return answer;
        }
        hasFailed ||= !isNeighbour && answer.status === 500;
        if (isNeighbour) this.#resting.set(server.url, true);
        last = new Error(`${server.url} answered with status ${answer.status}`);
      } catch (error) {
        if (!(error instanceof SitecastError)) throw error;
        this.#resting.set(server.url, true);
        last = error;
      }
    }
    throw new SitecastError(
      'unreachable',
      'SITECAST_UPSTREAM_UNREACHABLE',
      'no upstream of this gateway can be reached',
      {
        cause: last,
        data: { hasFailed },
        hint: 'It is tried again later; the gateway serves what it has until then.',
      },
    );
  }

  /** Those that failed lately come last, beginning with the longest ago: they may be the only ones. */
  #inOrder(): SiteServer[] {
    const neighbours = shuffled(this.#neighbours());
    if (neighbours.length === 0) return [...this.#upstreams];
    const all = [...this.#upstreams, ...neighbours];
    const byUrl = new Map(all.map(server => [server.url, server]));
    const resting = [...this.#resting.rkeys()].flatMap(url => byUrl.get(url) ?? []);
    return [...all.filter(server => !resting.includes(server)), ...resting].slice(
      0,
      this.#upstreams.length + MAX_NEIGHBOURS,
    );
  }
}

/** Reports that a neighbour says are refused stay in the queue, since the origin hasn't signed that. */
function withoutVerdicts({ status, json }: UpstreamAnswer): UpstreamAnswer {
  if (typeof json !== 'object' || json === null) return { status, json };
  return { status, json: { ...json, rejected: [] } };
}
