import {
  type Chunk,
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  chunkIdToHex,
  isRefusal,
  SourceSelector,
} from '@sitecast/shared/content';
import { orAborted } from '@sitecast/shared/async';
import { SitecastError } from '@sitecast/shared/errors';
import { cutText } from '@sitecast/shared/text';
import pLimit from 'p-limit';

/** Rounds over all gateways before a chunk counts as not to be had, unless another number is given. */
const MAX_ROUNDS = 4;
const FIRST_PAUSE_MS = 250;
/** Of what all gateways said. */
const MAX_SAID_CHARS = 900;
/** A gateway that hasn't answered by then isn't waited for alone. */
const HEDGE_AFTER_MS = 2000;
/** How long a gateway that was too slow, or failed, comes last. */
const REST_MS = 30_000;

export interface GatewayChunksOptions {
  sleep: (ms: number, signal?: AbortSignal) => Promise<unknown>;
  /** A gateway sent wrong bytes. It isn't asked again. */
  onBan: (gateway: string, code: string) => void;
  /** Times that all are asked, with pauses between; where others can be asked meanwhile, once is enough. */
  rounds?: number;
}

/**
 * A device's gateways as one store, in the order in which they are asked. They fail over; a slow one isn't waited for alone, and comes
 * last for a while where another is faster.
 */
export class GatewayChunks implements ChunkStore {
  readonly name = 'the gateways';
  readonly #selector: SourceSelector;
  readonly #sleep: GatewayChunksOptions['sleep'];
  readonly #rounds: number;
  /**
   * After its first round, a chunk is requested only while no other chunk is: if none can be fetched, one request finds that out. As soon
   * as one has come, those that wait are requested together. Each refusal takes some hundred bytes, which count for a device with
   * `--max-bytes`.
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

  /** They may have any chunk: asking for it is the way to know. */
  async has(_id: ChunkId, { signal }: ChunkRequest = {}): Promise<boolean> {
    signal?.throwIfAborted();
    return true;
  }

  /**
   * The chunk, verified.
   * @throws SITECAST_NO_SOURCE (unreachable) when no gateway gives it, with what each of them said; SITECAST_SOURCES_BANNED when
   *   all of them sent wrong bytes
   */
  async get(id: ChunkId, request: ChunkRequest = {}): Promise<Chunk> {
    const failures = new Map<string, SitecastError>();
    const found =
      (await this.#selector.get(id, request, failures)) ??
      (this.#rounds > 1 ? await this.#askInTurn(id, request, failures) : undefined);
    if (found) return found;
    throw this.#noSource(id, failures);
  }

  async #askInTurn(
    id: ChunkId,
    request: ChunkRequest,
    failures: Map<string, SitecastError>,
  ): Promise<Chunk | undefined> {
    const { signal } = request;
    signal?.throwIfAborted();
    const asking = this.#again(async () => {
      const found = await this.#askAgain(id, request, failures);
      const othersWait = this.#again.pendingCount > 0;
      this.#again.concurrency = found && othersWait ? Infinity : 1;
      return found;
    });
    return await (signal ? orAborted(asking, signal) : asking);
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
    // What people can do, in a gateway's words: nothing else tells them on this device.
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
