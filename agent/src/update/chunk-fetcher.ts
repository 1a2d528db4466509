import {
  type ChunkIndex,
  type ChunkStore,
  longestFrameBytes,
  MAX_CHUNK_BYTES,
} from '@sitecast/shared/content';
import { formatBytes } from '@sitecast/shared/text';
import type { SiteExchange } from '../peers/site-exchange.ts';
import type { AgentClock, HeldImage, PeerFetch, SlotName } from '../ports.ts';
import { OverBound, type Spending } from '../state/spending.ts';
import { GatewayChunks } from '../upstream/gateway-chunks.ts';
import type { Gateways } from '../upstream/gateways.ts';
import { postponed } from './result.ts';

interface ChunkFetcherDependencies {
  gateways: Pick<Gateways, 'all'>;
  /** Undefined: chunks come from gateways alone. */
  exchange: Pick<SiteExchange, 'begin' | 'fetch' | 'lend'> | undefined;
  clock: AgentClock;
  spending: Spending;
  /** Chunks on their way at once. Each takes one buffer of the longest chunk's length. */
  concurrency: number;
  /** The same where peers give some as well. */
  concurrencyWithPeers: number;
}

/** The gateways as one store that gives only verified chunks, counts what they cost, and ends where no more may be spent. */
export interface PaidSource {
  store: ChunkStore;
  /** Fires also where the bound is reached, with a CycleEnd (`waiting`) as its reason. */
  signal: AbortSignal;
}

export interface ChunkFetch {
  index: ChunkIndex;
  /** SHA-256 of the index, in hex. */
  indexSha256: string;
  wanted: readonly number[];
  source: PaidSource;
  onBan: PeerFetch['onBan'];
  refusedMs?: PeerFetch['refusedMs'];
  /** Takes a verified chunk. */
  deliver: PeerFetch['deliver'];
}

/** Fetches chunks from the site: from its gateways, and from other devices where there is an exchange. */
export class ChunkFetcher {
  readonly #deps: ChunkFetcherDependencies;

  constructor(deps: ChunkFetcherDependencies) {
    this.#deps = deps;
  }

  /** @param signal of the cycle */
  source(onBan: PeerFetch['onBan'], signal: AbortSignal): PaidSource {
    const { gateways, clock, exchange } = this.#deps;
    const over = new AbortController();
    const store = new GatewayChunks(
      gateways.all.map(({ chunks }) => this.#paid(chunks, over)),
      {
        sleep: (ms, stop) => clock.sleep(ms, stop),
        onBan,
        // Meanwhile peers are asked. The exchange asks a gateway that was away again by itself.
        ...(exchange ? { rounds: 1 } : {}),
      },
    );
    return { store, signal: AbortSignal.any([signal, over.signal]) };
  }

  /**
   * From now on other devices get what lies right in the slot.
   * @returns to be told of each chunk that is written; undefined where nothing is handed out
   */
  async handOut(
    target: SlotName,
    { index, indexSha256 }: Pick<ChunkFetch, 'index' | 'indexSha256'>,
    isHere: (at: number) => boolean,
  ): Promise<HeldImage | undefined> {
    const image = { id: Buffer.from(indexSha256, 'hex'), index };
    return this.#deps.exchange?.begin(target, image, isHere);
  }

  /** Hands out chunks that lie in no slot until its `end`. @returns undefined where nothing is handed out */
  lend(
    { index, indexSha256 }: Pick<ChunkFetch, 'index' | 'indexSha256'>,
    chunks: ChunkStore,
  ): HeldImage | undefined {
    return this.#deps.exchange?.lend({ id: Buffer.from(indexSha256, 'hex'), index }, chunks);
  }

  /**
   * @param wanted numbers of chunks, each chunk once. The image is handed out
   * @throws SITECAST_NO_SOURCE and others of the sources; what `deliver` throws; the reason of the source's signal
   */
  async fetch({ index, indexSha256, wanted, source, onBan, refusedMs, deliver }: ChunkFetch): Promise<void> {
    if (wanted.length === 0) return;
    const { exchange, concurrencyWithPeers: concurrency } = this.#deps;
    const { store, signal } = source;
    if (!exchange) {
      await this.#fetchFromGateways({ index, wanted, source, deliver });
      return;
    }
    const image = { id: Buffer.from(indexSha256, 'hex'), index };
    await exchange.fetch(image, wanted, { gateway: store, concurrency, signal, refusedMs, deliver, onBan });
  }

  async #fetchFromGateways({
    index,
    wanted,
    source,
    deliver,
  }: Omit<ChunkFetch, 'indexSha256' | 'onBan'>): Promise<void> {
    const firsts = wanted.values();
    const failure = new AbortController();
    const stop = AbortSignal.any([source.signal, failure.signal]);
    const work = async (): Promise<void> => {
      const into = Buffer.allocUnsafeSlow(index.sizes.maxBytes);
      // The workers share one iterator.
      for (const first of firsts) {
        stop.throwIfAborted();
        const lengthBytes = index.lengthOf(first);
        const chunk = await source.store.get(index.idAt(first), { lengthBytes, into, signal: stop });
        await deliver(first, chunk.plain());
      }
    };
    const workers = Array.from({ length: Math.min(this.#deps.concurrency, wanted.length) }, async () => {
      try {
        await work();
      } catch (error) {
        failure.abort(error);
        throw error;
      }
    });
    await Promise.allSettled(workers);
    source.signal.throwIfAborted();
    // The first failure, not the abortions that followed from it.
    failure.signal.throwIfAborted();
  }

  #paid(gateway: ChunkStore, over: AbortController): ChunkStore {
    const { spending } = this.#deps;
    return {
      name: gateway.name,
      has: (id, request) => gateway.has(id, request),
      get: async (id, request = {}) => {
        const longestBytes = longestFrameBytes(request.lengthBytes ?? MAX_CHUNK_BYTES);
        try {
          return await spending.pay(
            longestBytes,
            onSent => {
              const both = (lengthBytes: number): void => {
                onSent(lengthBytes);
                request.onSent?.(lengthBytes);
              };
              return gateway.get(id, { ...request, onSent: both });
            },
            request.signal,
          );
        } catch (error) {
          if (error instanceof OverBound) over.abort(allSpent(spending));
          over.signal.throwIfAborted();
          throw error;
        }
      },
    };
  }
}

function allSpent({ spentBytes, leftBytes }: Spending): Error {
  const message = `gateways have sent ${formatBytes(spentBytes)} for this release, and the ${formatBytes(leftBytes)} that are left of --max-bytes may not be enough for the next chunk: to go on, start the agent with a higher --max-bytes`;
  return postponed('approval', { code: 'SITECAST_BYTES_SPENT', message });
}
