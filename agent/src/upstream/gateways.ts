import { SitecastError } from '@sitecast/shared/errors';
import type { MetadataFetcher } from '@sitecast/shared/trust';
import type { Gateway, JsonAnswer } from '../ports.ts';
import { problemIn } from './answers.ts';

const OPENING_BRACE = 0x7b;

/** When a gateway answered last. */
export interface Heard {
  url: string;
  atMs: number;
}

/** The gateways in order of preference. Where one fails, the next is asked. */
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

  /** The gateway that answered last; before any answer, the first. */
  get liveliest(): Gateway {
    return this.all.find(({ url }) => url === this.#heard?.url) ?? this.#current;
  }

  noteHeard(gateway: Gateway): void {
    this.#heard = { url: gateway.url, atMs: this.#now() };
  }

  /** Does the work while `metadata` and `targets` lead to this gateway. */
  async with<T>(gateway: Gateway, work: (gateway: Gateway) => Promise<T>): Promise<T> {
    this.#current = gateway;
    return work(gateway);
  }

  /** As `each`, while `metadata` and `targets` lead to the gateway that is asked. One such call at a time. */
  eachRepository<T>(work: (gateway: Gateway) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.each(gateway => this.with(gateway, work), signal);
  }

  /**
   * Asks one after the other until one answers.
   * @param work throws for an answer that is of no use, for any reason
   * @param order default: in order of preference
   * @throws the first error other than unreachability; else the first one
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
   * Asks one after the other until one has what is wanted. A gateway that says that it has nothing may not know, or not want to say.
   * @param work returns undefined where the gateway has nothing; throws as in `each`
   * @returns undefined where at least one gateway answered, and none has it
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

  /** Metadata from the gateway that is asked. An answer that isn't JSON, such as a captive portal's page, isn't a gateway's. */
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

/** What answers is no gateway, or can't answer. */
export function noGateway(url: string, why: string, cause?: unknown): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_GATEWAY_UNREACHABLE', `${url}: ${why}`, {
    data: { url },
    cause,
  });
}

function isUnreachable(error: unknown): boolean {
  return error instanceof SitecastError && error.kind === 'unreachable';
}
