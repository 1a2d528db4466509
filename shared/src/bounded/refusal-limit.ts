import { type Rate, TokenBuckets } from './token-bucket.ts';

/**
 * Bounds how many requests of each sender are refused: to find out that a request must be refused may cost the check of a signature, and an
 * answer. Beyond the bound a sender is refused without either, even if its next request would be admitted.
 */
export class RefusalLimit {
  readonly #left: TokenBuckets;

  /** @param options `maxKeys`: senders that are remembered, the least recently seen are forgotten first; `now` in ms */
  constructor({ now = () => performance.now(), ...rate }: Rate & { maxKeys?: number; now?: () => number }) {
    this.#left = new TokenBuckets({ ...rate, now });
  }

  /**
   * @param isAdmitted checks the request; isn't called for a sender that was refused too often
   * @returns `refused` is counted
   */
  check(sender: string, isAdmitted: () => boolean): 'admitted' | 'refused' | 'tooOften' {
    if (this.#left.of(sender).tokens < 1) return 'tooOften';
    if (isAdmitted()) return 'admitted';
    this.count(sender);
    return 'refused';
  }

  /** Counts a refusal. @returns false beyond the bound */
  count(sender: string): boolean {
    return this.#left.take(sender);
  }
}
