/** The bound of one known sender's nonces in one span: 50 requests a second for ten minutes. Beyond it that sender alone is refused. */
const MAX_NONCES_PER_SENDER = 30_000;
/** The bound of all known senders' nonces in one span, about 45 bytes each. Beyond it senders with more than their share are refused. */
const MAX_NONCES = 2_000_000;
/** A known sender with fewer nonces than this in one span is never refused, whatever others do. */
const MIN_NONCES_PER_SENDER = 100;
/** The bound of all strangers' nonces together. Beyond it the oldest are forgotten. */
const MAX_STRANGERS_NONCES = 100_000;
/** How many hex digits of a known sender's nonce are kept: as many as a number holds exactly. */
const KEPT_HEX_DIGITS = 13;

export interface NonceLimits {
  perSender: number;
  total: number;
  leastPerSender: number;
  strangers: number;
}

const LIMITS: NonceLimits = {
  perSender: MAX_NONCES_PER_SENDER,
  total: MAX_NONCES,
  leastPerSender: MIN_NONCES_PER_SENDER,
  strangers: MAX_STRANGERS_NONCES,
};

/**
 * - `fresh`: not seen within the span; it is remembered now.
 * - `seen`: a replay.
 * - `tooMany`: this sender has used up its own memory. It is not remembered, so the request must be refused.
 */
export type NonceVerdict = 'fresh' | 'seen' | 'tooMany';

/**
 * Remembers the nonces of a span of time, so that no signed request is accepted twice (RFC 9421, section 7.2.2).
 *
 * Each known sender has a memory of its own, in two generations that replace each other, so no entry is ever swept. Anyone can make a
 * key, so strangers share one memory that forgets its oldest entries. A flood of them shuts no one out. At worst it allows a stranger's
 * own request to be replayed.
 */
export class NonceMemory {
  readonly #spanMs: number;
  readonly #limits: NonceLimits;
  /** In order of arrival. */
  readonly #strangers = new Map<string, number>();
  #current = new Map<string, Set<number>>();
  #previous = new Map<string, Set<number>>();
  #currentCount = 0;
  #turnedMs = 0;

  /** @param spanMs how long a known sender's nonce is remembered at least */
  constructor(spanMs: number, limits: Partial<NonceLimits> = {}) {
    this.#spanMs = spanMs;
    this.#limits = { ...LIMITS, ...limits };
  }

  /**
   * @param sender whose signature was verified
   * @param nonce 32 hex digits that the sender chose
   * @param isKnown whether the receiver knows the sender as one of its own
   */
  add(sender: string, nonce: string, { nowMs, isKnown }: { nowMs: number; isKnown: boolean }): NonceVerdict {
    this.#turn(nowMs);
    const key = `${sender} ${nonce}`;
    const kept = Number.parseInt(nonce.slice(0, KEPT_HEX_DIGITS), 16);
    // A stranger may have become known since, or the other way round.
    if (this.#strangers.has(key)) return 'seen';
    if (this.#current.get(sender)?.has(kept) || this.#previous.get(sender)?.has(kept)) return 'seen';
    return isKnown ? this.#addKnown(sender, kept) : this.#addStranger(key, nowMs);
  }

  #addKnown(sender: string, kept: number): NonceVerdict {
    const own = this.#current.get(sender) ?? new Set<number>();
    if (own.size >= this.#roomOf()) return 'tooMany';
    own.add(kept);
    this.#current.set(sender, own);
    this.#currentCount += 1;
    return 'fresh';
  }

  #roomOf(): number {
    const { perSender, total, leastPerSender } = this.#limits;
    if (this.#currentCount < total) return perSender;
    return Math.max(leastPerSender, Math.floor(total / this.#current.size));
  }

  #addStranger(key: string, nowMs: number): NonceVerdict {
    this.#strangers.set(key, nowMs);
    for (const [oldest, atMs] of this.#strangers) {
      if (this.#strangers.size <= this.#limits.strangers && nowMs - atMs < this.#spanMs) break;
      this.#strangers.delete(oldest);
    }
    return 'fresh';
  }

  #turn(nowMs: number): void {
    const sinceMs = Math.abs(nowMs - this.#turnedMs);
    if (sinceMs < this.#spanMs) return;
    this.#previous = sinceMs >= 2 * this.#spanMs ? new Map() : this.#current;
    this.#current = new Map();
    this.#currentCount = 0;
    this.#turnedMs = nowMs;
  }
}
