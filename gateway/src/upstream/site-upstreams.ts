import { SitecastError } from '@sitecast/shared/errors';
import type { Upstream, UpstreamAnswer } from './upstream.ts';

/** The upstreams, in their order, for requests of the site API: the first that can answer does. */
export class SiteUpstreams {
  readonly #upstreams: readonly Upstream[];

  constructor(upstreams: readonly Upstream[]) {
    this.#upstreams = upstreams;
  }

  /**
   * @returns the first answer that isn't "not me" (a status of 500 or more)
   * @throws SITECAST_UPSTREAM_UNREACHABLE where none has one; `data.hasFailed`: one of them was reached, and failed at this (500)
   */
  async ask(path: string, body?: unknown): Promise<UpstreamAnswer> {
    let last: unknown;
    let hasFailed = false;
    for (const upstream of this.#upstreams) {
      try {
        const answer = await upstream.ask(path, body);
        if (answer.status < 500) return answer;
        hasFailed ||= answer.status === 500;
        last = new Error(`${upstream.url} answered with status ${answer.status}`);
      } catch (error) {
        if (!(error instanceof SitecastError)) throw error;
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
}
