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
  /** Undefined: chunks come only from gateways. */
  exchange: Pick<SiteExchange, 'begin' | 'fetch' | 'lend'> | undefined;
  clock: AgentClock;
  spending: Spending;
  /** How many chunks are fetched at once. Each takes a buffer of the longest chunk's length. */
  concurrency: number;
  /** The same where chunks also come from peers. */
  concurrencyWithPeers: number;
}

/** All gateways as one chunk store: returns only verified chunks, counts their cost, and ends where no more may be spent. */
export interface PaidSource {
  store: ChunkStore;
  /** Also aborted where the bound on the cost is reached, with a CycleEnd (`waiting`) as its reason. */
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
  /** Called with each verified chunk. */
  deliver: PeerFetch['deliver'];
}

/** Fetches chunks within the site: from its gateways, and from other devices if there is an exchange. */
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
        // One round, so that peers are asked meanwhile. The exchange comes back to a failed gateway by itself.
        ...(exchange ? { rounds: 1 } : {}),
      },
    );
    return { store, signal: AbortSignal.any([signal, over.signal]) };
  }

  /**
   * From now on, other devices can fetch the chunks that are in place in this slot.
   * @returns a function to call for each chunk that is written; undefined without an exchange
   */
  async handOut(
    target: SlotName,
    { index, indexSha256 }: Pick<ChunkFetch, 'index' | 'indexSha256'>,
    isHere: (at: number) => boolean,
  ): Promise<HeldImage | undefined> {
    const image = { id: Buffer.from(indexSha256, 'hex'), index };
    return this.#deps.exchange?.begin(target, image, isHere);
  }

  /** Serves chunks that lie in no slot to other devices, until its `end` is called. @returns undefined without an exchange */
  lend(
    { index, indexSha256 }: Pick<ChunkFetch, 'index' | 'indexSha256'>,
    chunks: ChunkStore,
  ): HeldImage | undefined {
    return this.#deps.exchange?.lend({ id: Buffer.from(indexSha256, 'hex'), index }, chunks);
  }

  /**
   * @param wanted numbers of chunks, each chunk once. The image must be handed out already
   * @throws SITECAST_NO_SOURCE and others of the sources; errors of `deliver`; the reason of the source's signal
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
    // Throws the first failure, not the aborts that it caused.
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
