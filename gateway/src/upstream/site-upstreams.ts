import { lruCache } from '@sitecast/shared/bounded';
import { SitecastError } from '@sitecast/shared/errors';
import { shuffled } from '@sitecast/shared/upstream';
import type { ForwardedAnswer, ForwardedRequest, Upstream, UpstreamAnswer } from './upstream.ts';

// Neighbours are any machines with the fleet's key, a stolen gateway among them. The worst one says "no" to everything, or nothing for as long as it
// may. It isn't waited for twice within its rest, and which ones are tried is drawn: so no few of them keep a site's requests from the others.

/** How long an upstream that can't be reached, or a neighbour that has no answer that counts, comes after the others. */
const REST_MS = 60_000;
const MAX_RESTING = 1000;
/** Neighbours that are tried for one request. */
const MAX_NEIGHBOURS = 3;

/** Where requests of the site API go. */
export type SiteServer = Pick<Upstream, 'url' | 'ask' | 'forward'>;

/** The upstreams, in their order, for requests of the site API, then neighbours: the first that can answer does. */
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
   * @returns the first answer that isn't "not me" (a status of 500 or more)
   * @throws SITECAST_UPSTREAM_UNREACHABLE where none has one; `data.hasFailed`: one of them was reached, and failed at this (500)
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
        // Any holder of the fleet's key can say "no" in the origin's name: of neighbours only a "yes" counts, whose content is signed.
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

  /** Those that rest come last, the longest first: they may be the only ones. */
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

/** Reports that a neighbour says are refused stay in the outbox: the origin doesn't sign that. */
function withoutVerdicts({ status, json }: UpstreamAnswer): UpstreamAnswer {
  if (typeof json !== 'object' || json === null) return { status, json };
  return { status, json: { ...json, rejected: [] } };
}
