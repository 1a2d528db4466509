import type { Chunk, ChunkId, ChunkRequest } from '../../content/index.ts';

/** The weight of the latest duration in the average. */
const NEWEST_WEIGHT = 0.2;
const FIRST_REST_MS = 500;
const MAX_REST_MS = 10_000;
const MAX_FAILURES = 3;

interface Getter {
  get(id: ChunkId, request?: ChunkRequest): Promise<Chunk>;
}

/** A peer or a gateway from the scheduler's view: how busy and how fast it is, and whether it is on a break after a failure. */
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
  /** The shortest time until an answer began; undefined: not known. */
  latencyMs: number | undefined;

  /** @param slots how many requests it gets at a time at present */
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

  /** Whether it may be asked now: it isn't banned, nor on a break. */
  mayBeAsked(nowMs: number): boolean {
    return !this.#isBanned && nowMs >= this.#restsUntilMs;
  }

  /** Whether it has failed so often in a row that it isn't worth asking. */
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

  /** Called when the first bytes of an answer have arrived. */
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
