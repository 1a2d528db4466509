import { SitecastError } from '@sitecast/shared/errors';
import type { MetadataFetcher } from '@sitecast/shared/trust';
import type { Gateway, JsonAnswer } from '../ports.ts';
import { problemIn } from './answers.ts';

const OPENING_BRACE = 0x7b;

/** When a gateway last answered. */
export interface Heard {
  url: string;
  atMs: number;
}

/** The gateways in the order in which they're preferred; one that fails makes room for the next. */
export class Gateways {
  readonly all: readonly Gateway[];
  readonly #now: () => number;
  #current: Gateway;
  #heard: Heard | undefined;

  constructor(all: readonly [Gateway, ...Gateway[]], now: () => number) {
    this.all = all;
    this.#current = all[0];
    this.#now = now;
  }

  get heard(): Heard | undefined {
    return this.#heard;
  }

  /** The one that answered last; before that, the first. */
  get liveliest(): Gateway {
    return this.all.find(({ url }) => url === this.#heard?.url) ?? this.#current;
  }

  noteHeard(gateway: Gateway): void {
    this.#heard = { url: gateway.url, atMs: this.#now() };
  }

  /** Does the work with `metadata` and `targets` leading to this gateway. */
  async with<T>(gateway: Gateway, work: (gateway: Gateway) => Promise<T>): Promise<T> {
    this.#current = gateway;
    return work(gateway);
  }

  /** As `each`, with `metadata` and `targets` leading to the gateway that is asked. One such call at a time. */
  eachRepository<T>(work: (gateway: Gateway) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.each(gateway => this.with(gateway, work), signal);
  }

  /**
   * Asks one after the other until one answers.
   * @param work throws for an answer that's of no use, whatever the reason
   * @param order default: as they're preferred
   * @throws the first error that isn't mere unreachability; else the first one
   */
  async each<T>(
    work: (gateway: Gateway) => Promise<T>,
    signal?: AbortSignal,
    order: readonly Gateway[] = this.all,
  ): Promise<T> {
    let telling: unknown;
    for (const gateway of order) {
      signal?.throwIfAborted();
      try {
        return await work(gateway);
      } catch (error) {
        if (!(error instanceof SitecastError)) throw error;
        if (telling === undefined || isUnreachable(telling)) telling = error;
      }
    }
    throw telling;
  }

  /**
   * Asks one after the other until one has it: a gateway that says that there's nothing may not know, or not want to.
   * @param work undefined: it has nothing; throws as in `each`
   * @returns undefined where at least one answered, and none has it
   * @throws as `each`, where none answered
   */
  async find<T>(
    work: (gateway: Gateway) => Promise<T | undefined>,
    signal?: AbortSignal,
  ): Promise<T | undefined> {
    let hasAnswered = false;
    try {
      return await this.each(async gateway => {
        const found = await work(gateway);
        if (found !== undefined) return found;
        hasAnswered = true;
        throw noGateway(gateway.url, 'it has nothing');
      }, signal);
    } catch (error) {
      if (hasAnswered && error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  /** A signed POST to one gateway. @throws SITECAST_GATEWAY_UNREACHABLE, for status 5xx as well */
  async post(gateway: Gateway, path: string, body: unknown, signal?: AbortSignal): Promise<JsonAnswer> {
    return this.#answered(gateway, path, await gateway.postJson(path, body, signal));
  }

  /** @throws SITECAST_GATEWAY_UNREACHABLE, for status 5xx as well */
  async get(gateway: Gateway, path: string, signal?: AbortSignal): Promise<JsonAnswer> {
    return this.#answered(gateway, path, await gateway.getJson(path, signal));
  }

  /** Metadata from the gateway that is being asked. What isn't even JSON, such as a captive portal's page, is nobody's answer. */
  readonly metadata: MetadataFetcher = {
    fetch: async (path, options) => {
      const gateway = this.#current;
      const bytes = await gateway.metadata.fetch(path, options);
      if (bytes && bytes[0] !== OPENING_BRACE)
        throw noGateway(gateway.url, `what it answers for ${path} is no metadata; is it a gateway?`);
      this.noteHeard(gateway);
      return bytes;
    },
  };
  readonly targets: MetadataFetcher = {
    fetch: async (path, options) => {
      const gateway = this.#current;
      const bytes = await gateway.targets.fetch(path, options);
      this.noteHeard(gateway);
      return bytes;
    },
  };

  #answered(gateway: Gateway, path: string, answer: JsonAnswer): JsonAnswer {
    const why = problemIn(answer.body);
    if (answer.status >= 500)
      throw noGateway(
        gateway.url,
        `${path}: it answered with status ${answer.status}${why === undefined ? '' : ` (${why})`}`,
      );
    this.noteHeard(gateway);
    return answer;
  }
}

/** What answers is none, or not able to. */
export function noGateway(url: string, why: string, cause?: unknown): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_GATEWAY_UNREACHABLE', `${url}: ${why}`, {
    data: { url },
    cause,
  });
}

function isUnreachable(error: unknown): boolean {
  return error instanceof SitecastError && error.kind === 'unreachable';
}
