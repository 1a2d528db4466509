import { type ChunkIndex, type ChunkStore, counted, MAX_CHUNK_BYTES } from '@sitecast/shared/content';
import type { SiteExchange } from '../peers/site-exchange.ts';
import type { AgentClock, HeldImage, PeerFetch, SlotName } from '../ports.ts';
import { OverBound, type Spending } from '../state/spending.ts';
import { GatewayChunks } from '../upstream/gateway-chunks.ts';
import type { Gateways } from '../upstream/gateways.ts';
import type { MissingChunks } from './missing-chunks.ts';
import { postponed } from './result.ts';

/** A frame is at most that much longer than its chunk, but for encoders that flush often. */
const FRAME_OVERHEAD_BYTES = 256;

interface ChunkFetcherDependencies {
  gateways: Pick<Gateways, 'all'>;
  /** Undefined: chunks come from gateways alone. */
  exchange: Pick<SiteExchange, 'begin' | 'fetch'> | undefined;
  clock: AgentClock;
  spending: Spending;
  /** Chunks on their way at once. Each takes one buffer of the longest chunk's length. */
  concurrency: number;
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
  target: SlotName;
  missing: MissingChunks;
  source: PaidSource;
  onBan: PeerFetch['onBan'];
  /** Writes a chunk to its places, and calls back for each. */
  write: (first: number, plain: Uint8Array, onWritten: (at: number) => void) => Promise<void>;
}

/** Fetches chunks from the site: from its gateways, and from other devices where there is an exchange. */
export class ChunkFetcher {
  readonly #deps: ChunkFetcherDependencies;

  constructor(deps: ChunkFetcherDependencies) {
    this.#deps = deps;
  }

  get concurrency(): number {
    return this.#deps.concurrency;
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

  /** @throws SITECAST_NO_SOURCE and others of the sources; what `write` throws; the reason of the source's signal */
  async fetch(fetch: ChunkFetch): Promise<void> {
    if (fetch.missing.count === 0) return;
    const { exchange } = this.#deps;
    if (exchange) await this.#fetchFromSite(fetch, exchange);
    else await this.#fetchFromGateways(fetch);
  }

  /** What is written is handed out to others at once. */
  async #fetchFromSite(
    { index, indexSha256, target, missing, source, onBan, write }: ChunkFetch,
    exchange: Pick<SiteExchange, 'begin' | 'fetch'>,
  ): Promise<void> {
    const image = { id: Buffer.from(indexSha256, 'hex'), index };
    const held: HeldImage | undefined = await exchange.begin(target, image, at => !missing.has(at));
    await exchange.fetch(image, missing.firsts(), {
      gateway: source.store,
      concurrency: this.#deps.concurrency,
      signal: source.signal,
      deliver: (first, plain) => write(first, plain, at => held?.add(at)),
      onBan,
    });
  }

  async #fetchFromGateways({ index, missing, source, write }: ChunkFetch): Promise<void> {
    const firsts = missing.firsts();
    const failure = new AbortController();
    const stop = AbortSignal.any([source.signal, failure.signal]);
    const work = async (): Promise<void> => {
      const into = Buffer.allocUnsafeSlow(index.sizes.maxBytes);
      // The workers share one iterator.
      for (const first of firsts) {
        stop.throwIfAborted();
        const lengthBytes = index.lengthOf(first);
        const chunk = await source.store.get(index.idAt(first), { lengthBytes, into, signal: stop });
        await write(first, chunk.plain(), () => {});
      }
    };
    const workers = Array.from({ length: Math.min(this.#deps.concurrency, missing.count) }, async () => {
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
    const counting = counted(gateway, chunk => spending.add(chunk.ready().bytes.length));
    return {
      name: counting.name,
      has: (id, request) => counting.has(id, request),
      get: async (id, request = {}) => {
        const admittedBytes = (request.lengthBytes ?? MAX_CHUNK_BYTES) + FRAME_OVERHEAD_BYTES;
        try {
          await spending.admit(admittedBytes);
        } catch (error) {
          if (error instanceof OverBound) over.abort(allSpent(spending));
          over.signal.throwIfAborted();
          throw error;
        }
        try {
          return await counting.get(id, request);
        } finally {
          spending.settle(admittedBytes);
        }
      },
    };
  }
}

function allSpent({ spentBytes }: Spending): Error {
  const message = `${spentBytes} bytes were spent on this release, and what is left of --max-bytes isn't enough for the next chunk`;
  return postponed('approval', { code: 'SITECAST_BYTES_SPENT', message });
}
