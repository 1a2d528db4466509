import { type ChunkId, type ChunkStore, chunkIdToHex, verifyFrame } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { cutText } from '@sitecast/shared/text';

/** Rounds over all sources before a chunk counts as not to be had, unless it's said otherwise. */
const MAX_ROUNDS = 4;
const FIRST_PAUSE_MS = 250;
/** Of what all sources said. */
const MAX_SAID_CHARS = 600;

/** A source that hasn't answered by then isn't waited for alone. */
const HEDGE_AFTER_MS = 2000;
/** How long a source that was too slow, or failed, comes last. */
const SLOW_FOR_MS = 30_000;

export interface Banned {
  source: string;
  code: string;
}

interface FetchOptions {
  lengthBytes: number;
  /** Gets the plain bytes; at least as long as any chunk of the image. */
  into: Uint8Array;
  signal: AbortSignal;
}

/**
 * Where chunks come from, in the order in which they're asked. One that is slow isn't waited for alone: the next one is asked
 * besides, and if that's faster, the slow one comes last for a while. Who sends wrong bytes isn't asked again.
 */
export class ChunkSources {
  readonly #stores: readonly ChunkStore[];
  readonly #sleep: (ms: number, signal?: AbortSignal) => Promise<void>;
  readonly #onBan: (banned: Banned) => void;
  readonly #rounds: number;
  readonly #banned = new Map<string, Banned>();
  /** Until when a source comes after the others, on a clock that never goes back. */
  readonly #slowUntilMs = new Map<string, number>();

  constructor(
    stores: readonly ChunkStore[],
    options: {
      sleep: (ms: number, signal?: AbortSignal) => Promise<void>;
      onBan: (banned: Banned) => void;
      /** Times that all are asked, with pauses between; where others can be asked meanwhile, once is enough. */
      rounds?: number;
    },
  ) {
    this.#stores = stores;
    this.#rounds = options.rounds ?? MAX_ROUNDS;
    this.#sleep = options.sleep;
    this.#onBan = options.onBan;
  }

  get banned(): Banned[] {
    return [...this.#banned.values()];
  }

  /**
   * Fetches a chunk and verifies it.
   * @throws SITECAST_NO_SOURCE (unreachable) when nobody hands it out, with what each of them said
   */
  async fetch(id: ChunkId, options: FetchOptions): Promise<Uint8Array> {
    const failures = new Map<string, unknown>();
    for (let round = 0; round < this.#rounds; round += 1) {
      const usable = this.#inOrder();
      if (usable.length === 0) break;
      if (round > 0) await this.#sleep(FIRST_PAUSE_MS * 2 ** (round - 1), options.signal);
      options.signal.throwIfAborted();
      const found = await this.#askAll(usable, id, options, failures);
      if (found) return found;
    }
    throw this.#noSource(id, failures);
  }

  #inOrder(): ChunkStore[] {
    const nowMs = performance.now();
    const isSlow = ({ name }: ChunkStore): boolean => (this.#slowUntilMs.get(name) ?? 0) > nowMs;
    const usable = this.#stores.filter(({ name }) => !this.#banned.has(name));
    return [...usable.filter(store => !isSlow(store)), ...usable.filter(isSlow)];
  }

  /** Asks one after the other, the next as soon as the one before has failed or taken too long. The first right answer counts. */
  async #askAll(
    stores: readonly ChunkStore[],
    id: ChunkId,
    { lengthBytes, into, signal }: FetchOptions,
    failures: Map<string, unknown>,
  ): Promise<Uint8Array | undefined> {
    const done = new AbortController();
    const until = AbortSignal.any([signal, done.signal]);
    const asked = new Map<ChunkStore, Promise<Answer>>();
    const waiting = [...stores];
    try {
      for (;;) {
        const next = waiting.shift();
        if (next) asked.set(next, ask(next, id, until));
        if (asked.size === 0) return undefined;
        const answer = await this.#firstOf(asked, waiting.length > 0, until);
        signal.throwIfAborted();
        if (!answer) continue;
        asked.delete(answer.store);
        try {
          if ('error' in answer) throw answer.error;
          // The index is signed, so a right chunk has that length: a longer one doesn't fit, a shorter one isn't it.
          const found = verifyFrame(id, answer.frame, into.subarray(0, lengthBytes));
          this.#noteSlow(asked.keys());
          return into.subarray(0, found);
        } catch (error) {
          this.#noteFailure(answer.store, error, failures);
        }
      }
    } finally {
      done.abort();
    }
  }

  /** @returns undefined when it's time to ask another one besides */
  async #firstOf(
    asked: ReadonlyMap<ChunkStore, Promise<Answer>>,
    areOthersLeft: boolean,
    signal: AbortSignal,
  ): Promise<Answer | undefined> {
    if (!areOthersLeft) return await Promise.race(asked.values());
    const over = new AbortController();
    const slept = this.#sleep(HEDGE_AFTER_MS, AbortSignal.any([signal, over.signal])).then(() => undefined);
    const first = await Promise.race([...asked.values(), slept]);
    over.abort();
    return first;
  }

  #noteSlow(stores: Iterable<ChunkStore>): void {
    for (const { name } of stores) this.#slowUntilMs.set(name, performance.now() + SLOW_FOR_MS);
  }

  #noteFailure(store: ChunkStore, error: unknown, failures: Map<string, unknown>): void {
    if (!(error instanceof SitecastError)) throw error;
    failures.set(store.name, error);
    if (error.kind === 'untrusted' || error.kind === 'tooLarge') this.#ban(store, error);
    else if (error.code !== 'SITECAST_CHUNK_NOT_FOUND') this.#noteSlow([store]);
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
        : cutText(`nobody hands out chunk ${chunkIdToHex(id)}: ${said.join('; ')}`, MAX_SAID_CHARS),
      { data: { id: chunkIdToHex(id), banned: this.banned } },
    );
  }
}

type Answer = { store: ChunkStore } & ({ frame: Uint8Array } | { error: unknown });

/** Never throws: an answer that nobody waits for any more is no failure. */
async function ask(store: ChunkStore, id: ChunkId, signal: AbortSignal): Promise<Answer> {
  try {
    return { store, frame: (await store.get(id, { signal })).frame() };
  } catch (error) {
    return { store, error };
  }
}
