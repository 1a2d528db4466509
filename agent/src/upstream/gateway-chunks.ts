import {
  type Chunk,
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  chunkIdToHex,
  isRefusal,
  SourceSelector,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { cutText } from '@sitecast/shared/text';
import pLimit from 'p-limit';

/** How many rounds over all gateways are made for a chunk by default. */
const MAX_ROUNDS = 4;
const FIRST_PAUSE_MS = 250;
/** How many characters of all gateways' answers are used. */
const MAX_SAID_CHARS = 900;
/** After this time without an answer, the next gateway is asked as well. */
const HEDGE_AFTER_MS = 2000;
/** How long a gateway that was too slow, or failed, is asked last. */
const REST_MS = 30_000;

export interface GatewayChunksOptions {
  sleep: (ms: number, signal?: AbortSignal) => Promise<unknown>;
  /** Called when a gateway has sent wrong bytes. It isn't asked again. */
  onBan: (gateway: string, code: string) => void;
  /** How often all gateways are asked, with pauses between; once is enough where other sources are asked meanwhile. */
  rounds?: number;
}

/**
 * A device's gateways as one store. They are asked in order, with failover. If one is slow, the next is asked as well, and the slow one
 * comes last for a while if the other is faster.
 */
export class GatewayChunks implements ChunkStore {
  readonly name = 'the gateways';
  readonly #selector: SourceSelector;
  readonly #sleep: GatewayChunksOptions['sleep'];
  readonly #rounds: number;
  /**
   * After its first round, a chunk is requested only while no other chunk is: if none can be fetched, one request finds that out. Each
   * refusal takes some hundred bytes, which count for a device with `--max-bytes`.
   */
  readonly #again = pLimit(1);

  constructor(gateways: readonly ChunkStore[], { sleep, onBan, rounds = MAX_ROUNDS }: GatewayChunksOptions) {
    this.#sleep = sleep;
    this.#rounds = rounds;
    this.#selector = new SourceSelector(gateways, {
      restMs: REST_MS,
      hedgeAfterMs: HEDGE_AFTER_MS,
      verifies: true,
      wrongBytes: 'ban',
      onBan: (gateway, { code }) => onBan(gateway, code),
      sleep,
    });
  }

  /** Any gateway may have any chunk: only a request shows it. */
  async has(_id: ChunkId, { signal }: ChunkRequest = {}): Promise<boolean> {
    signal?.throwIfAborted();
    return true;
  }

  /**
   * The chunk, verified.
   * @throws SITECAST_NO_SOURCE (unreachable) if no gateway sends it, with the answer of each; SITECAST_SOURCES_BANNED if all of them have
   * sent wrong bytes
   */
  async get(id: ChunkId, request: ChunkRequest = {}): Promise<Chunk> {
    const failures = new Map<string, SitecastError>();
    const found =
      (await this.#selector.get(id, request, failures)) ??
      (this.#rounds > 1 ? await this.#again(() => this.#askAgain(id, request, failures)) : undefined);
    if (found) return found;
    throw this.#noSource(id, failures);
  }

  async #askAgain(
    id: ChunkId,
    request: ChunkRequest,
    failures: Map<string, SitecastError>,
  ): Promise<Chunk | undefined> {
    for (let round = 1; round < this.#rounds && !this.#selector.areAllBanned; round += 1) {
      request.signal?.throwIfAborted();
      await this.#sleep(FIRST_PAUSE_MS * 2 ** (round - 1), request.signal);
      const found = await this.#selector.get(id, request, failures);
      if (found) return found;
    }
    return undefined;
  }

  #noSource(id: ChunkId, failures: ReadonlyMap<string, SitecastError>): SitecastError {
    const { banned, areAllBanned } = this.#selector;
    const hex = chunkIdToHex(id);
    const isRefused = failures.size > 0 && [...failures.values()].every(isRefusal);
    const said = [...failures.values()].map(({ message }) => message).join('; ');
    // A hint of a gateway, which this device's user would not see otherwise.
    const hint = [...failures.values()].find(failure => failure.hint !== undefined)?.hint;
    const text = cutText(`nobody hands out chunk ${hex}: ${said}`, MAX_SAID_CHARS);
    return new SitecastError(
      'unreachable',
      areAllBanned ? 'SITECAST_SOURCES_BANNED' : 'SITECAST_NO_SOURCE',
      areAllBanned ? 'every source sent wrong bytes' : hint === undefined ? text : `${text}. ${hint}`,
      { data: { id: hex, banned, isRefused } },
    );
  }
}
