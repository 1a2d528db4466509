import { type ChunkId, type ChunkStore, chunkIdToHex, verifyFrame } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';

/** Rounds over all sources before a chunk counts as not to be had. */
const MAX_ROUNDS = 4;
const FIRST_PAUSE_MS = 250;

export interface Banned {
  source: string;
  code: string;
}

/** Where chunks come from, in the order in which they're asked. Who sends wrong bytes isn't asked again. */
export class ChunkSources {
  readonly #stores: readonly ChunkStore[];
  readonly #sleep: (ms: number, signal?: AbortSignal) => Promise<void>;
  readonly #onBan: (banned: Banned) => void;
  readonly #banned = new Map<string, Banned>();

  constructor(
    stores: readonly ChunkStore[],
    options: {
      sleep: (ms: number, signal?: AbortSignal) => Promise<void>;
      onBan: (banned: Banned) => void;
    },
  ) {
    this.#stores = stores;
    this.#sleep = options.sleep;
    this.#onBan = options.onBan;
  }

  get banned(): Banned[] {
    return [...this.#banned.values()];
  }

  /**
   * Fetches a chunk and verifies it.
   * @param into gets the plain bytes; at least as long as any chunk of the image
   * @throws SITECAST_NO_SOURCE (unreachable) when nobody hands it out, with what each of them said
   */
  async fetch(id: ChunkId, lengthBytes: number, into: Uint8Array, signal: AbortSignal): Promise<Uint8Array> {
    const failures = new Map<string, unknown>();
    for (let round = 0; round < MAX_ROUNDS; round += 1) {
      const usable = this.#stores.filter(({ name }) => !this.#banned.has(name));
      if (usable.length === 0) break;
      if (round > 0) await this.#sleep(FIRST_PAUSE_MS * 2 ** (round - 1), signal);
      for (const store of usable) {
        signal.throwIfAborted();
        try {
          return await this.#from(store, id, { lengthBytes, into, signal });
        } catch (error) {
          signal.throwIfAborted();
          if (!(error instanceof SitecastError)) throw error;
          failures.set(store.name, error);
          if (error.kind === 'untrusted' || error.kind === 'tooLarge') this.#ban(store, error);
        }
      }
    }
    throw this.#noSource(id, failures);
  }

  async #from(
    store: ChunkStore,
    id: ChunkId,
    { lengthBytes, into, signal }: { lengthBytes: number; into: Uint8Array; signal: AbortSignal },
  ): Promise<Uint8Array> {
    const chunk = await store.get(id, { signal });
    // The index is signed, so a right chunk has that length: a longer one doesn't fit, a shorter one isn't it.
    const found = verifyFrame(id, chunk.frame(), into.subarray(0, lengthBytes));
    return into.subarray(0, found);
  }

  #ban({ name }: ChunkStore, { code }: SitecastError): void {
    if (this.#banned.has(name)) return;
    const banned = { source: name, code };
    this.#banned.set(name, banned);
    this.#onBan(banned);
  }

  #noSource(id: ChunkId, failures: Map<string, unknown>): SitecastError {
    const said = [...failures].map(([name, error]) =>
      error instanceof SitecastError ? error.message : `${name}: ${String(error)}`,
    );
    const isTampered = this.#stores.length > 0 && this.#banned.size === this.#stores.length;
    return new SitecastError(
      'unreachable',
      isTampered ? 'SITECAST_SOURCES_BANNED' : 'SITECAST_NO_SOURCE',
      isTampered
        ? 'every source sent wrong bytes'
        : `nobody hands out chunk ${chunkIdToHex(id)}: ${said.join('; ')}`.slice(0, 600),
      { data: { id: chunkIdToHex(id), banned: this.banned } },
    );
  }
}
