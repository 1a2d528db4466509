import { SitecastError } from '@sitecast/shared/errors';
import type { MetadataFetcher } from '@sitecast/shared/trust';
import type { RepositorySource } from '@sitecast/shared/upstream';
import type { Gateway, JsonAnswer } from '../ports.ts';
import { problemIn } from './answers.ts';

const OPENING_BRACE = 0x7b;

/** Milliseconds. A failure that came sooner costs nothing, and changes no order. */
const SLOW_FAILURE_MS = 1000;
/** A gateway that failed slowly comes last for so many times what it cost. */
const REST_FACTOR = 10;
const MAX_REST_MS = 10 * 60_000;

/** When a gateway answered last. */
export interface Heard {
  url: string;
  atMs: number;
}

/** The gateways in order of preference. Where one fails, the next is asked. One that failed slowly comes last for a while. */
export class Gateways {
  readonly all: readonly [Gateway, ...Gateway[]];
  readonly #now: () => number;
  readonly #monotonicMs: () => number;
  /** By gateway: until when it comes last, on the monotonic clock. */
  readonly #restsUntilMs = new Map<Gateway, number>();
  /** What `metadata` and `targets` lead to: a gateway, or another device. */
  #source: RepositorySource;
  #heard: Heard | undefined;
  #answers = 0;

  /**
   * @param now milliseconds since 1970
   * @param monotonicMs milliseconds on a clock that never goes back
   */
  constructor(
    all: readonly [Gateway, ...Gateway[]],
    now: () => number,
    monotonicMs: () => number = () => performance.now(),
  ) {
    this.all = all;
    this.#source = all[0];
    this.#now = now;
    this.#monotonicMs = monotonicMs;
  }

  /** All gateways, in the order in which they are asked now. */
  get inOrder(): readonly Gateway[] {
    const nowMs = this.#monotonicMs();
    const isResting = (gateway: Gateway): boolean => (this.#restsUntilMs.get(gateway) ?? 0) > nowMs;
    return [...this.all.filter(gateway => !isResting(gateway)), ...this.all.filter(isResting)];
  }

  /**
   * Does the work, and notes what a failure cost. An answer elsewhere doesn't end the rest: one route may answer while another one hangs.
   * @throws what the work throws
   */
  async attempt<T>(gateway: Gateway, work: (gateway: Gateway) => Promise<T>): Promise<T> {
    const beganMs = this.#monotonicMs();
    try {
      return await work(gateway);
    } catch (error) {
      const endedMs = this.#monotonicMs();
      const costMs = endedMs - beganMs;
      if (error instanceof SitecastError && costMs >= SLOW_FAILURE_MS)
        this.#restsUntilMs.set(gateway, endedMs + Math.min(costMs * REST_FACTOR, MAX_REST_MS));
      throw error;
    }
  }

  /** Answers of gateways so far, also of those that can't help at the moment. */
  get answers(): number {
    return this.#answers;
  }

  get heard(): Heard | undefined {
    return this.#heard;
  }

  /** The gateway that answered last; before any answer, the one that was asked last. */
  get liveliest(): Gateway {
    return this.#gatewayAt(this.#heard?.url) ?? this.#gatewayAt(this.#source.url) ?? this.all[0];
  }

  noteHeard(gateway: Gateway): void {
    this.#answers += 1;
    this.#heard = { url: gateway.url, atMs: this.#now() };
  }

  /** Does the work while `metadata` and `targets` lead there: to a gateway, or to another device. */
  async with<S extends RepositorySource, T>(source: S, work: (source: S) => Promise<T>): Promise<T> {
    this.#source = source;
    return work(source);
  }

  /** As `each`, while `metadata` and `targets` lead to the gateway that is asked. One such call at a time. */
  eachRepository<T>(work: (gateway: Gateway) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.each(gateway => this.with(gateway, work), signal);
  }

  /**
   * Asks one after the other until one answers.
   * @param work throws for an answer that is of no use, for any reason
   * @param order default: in order of preference, those last that failed slowly
   * @throws the first error other than unreachability; else the first one
   */
  async each<T>(
    work: (gateway: Gateway) => Promise<T>,
    signal?: AbortSignal,
    order: readonly Gateway[] = this.inOrder,
  ): Promise<T> {
    let telling: unknown;
    for (const gateway of order) {
      signal?.throwIfAborted();
      try {
        return await this.attempt(gateway, work);
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

  /**
   * A signed POST to one gateway.
   * @param timeoutMs default: as long as the gateway's other requests may take
   * @throws SITECAST_GATEWAY_UNREACHABLE, for status 5xx as well
   */
  async post(
    gateway: Gateway,
    path: string,
    body: unknown,
    signal?: AbortSignal,
    timeoutMs?: number,
  ): Promise<JsonAnswer> {
    return this.#answered(gateway, path, await gateway.postJson(path, body, signal, timeoutMs));
  }

  /** @throws SITECAST_GATEWAY_UNREACHABLE, for status 5xx as well */
  async get(gateway: Gateway, path: string, signal?: AbortSignal): Promise<JsonAnswer> {
    return this.#answered(gateway, path, await gateway.getJson(path, signal));
  }

  /** Metadata from whom `with` leads to. An answer that isn't JSON, such as a captive portal's page, isn't a gateway's. */
  readonly metadata: MetadataFetcher = {
    fetch: async (path, options) => {
      const source = this.#source;
      const bytes = await source.metadata.fetch(path, options);
      if (bytes && bytes[0] !== OPENING_BRACE)
        throw noGateway(source.url, `what it answers for ${path} is no metadata; is it a gateway?`);
      this.#noteAnswer(source);
      return bytes;
    },
  };
  readonly targets: MetadataFetcher = {
    fetch: async (path, options) => {
      const source = this.#source;
      const bytes = await source.targets.fetch(path, options);
      this.#noteAnswer(source);
      return bytes;
    },
  };

  /** Another device that answers is no gateway. */
  #noteAnswer({ url }: RepositorySource): void {
    const gateway = this.#gatewayAt(url);
    if (gateway) this.noteHeard(gateway);
  }

  #gatewayAt(url: string | undefined): Gateway | undefined {
    return this.all.find(gateway => gateway.url === url);
  }

  #answered(gateway: Gateway, path: string, answer: JsonAnswer): JsonAnswer {
    const why = problemIn(answer.body);
    // With a code of ours it is a gateway: one whose disk is full, say.
    if (answer.status >= 500 && why !== undefined) this.#answers += 1;
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
