import type { Chunk, ChunkId, ChunkRequest } from '../../content/index.ts';

/** How much the latest duration counts in the average. */
const NEWEST_WEIGHT = 0.2;
const FIRST_REST_MS = 500;
const MAX_REST_MS = 10_000;
const MAX_FAILURES = 3;

interface Getter {
  get(id: ChunkId, request?: ChunkRequest): Promise<Chunk>;
}

/** A peer or a gateway as the scheduler sees it: how busy and how fast it is, and whether it rests after a failure. */
export class Source {
  readonly name: string;
  readonly #slots: (source: Source) => number;
  readonly #getter: Getter;
  #underWay = 0;
  #failures = 0;
  #restsUntilMs = Number.NEGATIVE_INFINITY;
  #isBanned = false;
  /** Average duration of a request. Undefined before the first one has ended. */
  typicalMs: number | undefined;
  /** The shortest time until an answer began, where that is known. */
  latencyMs: number | undefined;

  /** @param slots how many requests it gets at one time, for the present */
  constructor(name: string, slots: (source: Source) => number, getter: Getter) {
    this.name = name;
    this.#slots = slots;
    this.#getter = getter;
  }

  get underWay(): number {
    return this.#underWay;
  }

  hasRoom(nowMs: number): boolean {
    return this.#underWay < this.#slots(this) && this.mayBeAsked(nowMs);
  }

  /** It isn't banned, and doesn't rest at present. */
  mayBeAsked(nowMs: number): boolean {
    return !this.#isBanned && nowMs >= this.#restsUntilMs;
  }

  /** It has failed so often in a row that it isn't worth asking. */
  get isGone(): boolean {
    return this.#failures >= MAX_FAILURES;
  }

  ban(): void {
    this.#isBanned = true;
  }

  async get(id: ChunkId, request: ChunkRequest): Promise<Chunk> {
    this.#underWay += 1;
    try {
      return await this.#getter.get(id, request);
    } finally {
      this.#underWay -= 1;
    }
  }

  /** The first bytes of an answer are there. */
  answered(afterMs: number): void {
    this.latencyMs = Math.min(this.latencyMs ?? afterMs, afterMs);
  }

  gave(tookMs: number): void {
    this.#failures = 0;
    this.typicalMs =
      this.typicalMs === undefined ? tookMs : this.typicalMs * (1 - NEWEST_WEIGHT) + tookMs * NEWEST_WEIGHT;
  }

  failed(nowMs: number): void {
    this.#restsUntilMs = nowMs + Math.min(MAX_REST_MS, FIRST_REST_MS * 2 ** this.#failures);
    this.#failures += 1;
  }
}
