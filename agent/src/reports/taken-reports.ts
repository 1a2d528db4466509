import type { Gateway } from '../ports.ts';

/** A gateway that took a report, and brought no acknowledgement of the origin for so long, isn't relied on, milliseconds. */
const RESEND_AFTER_MS = 5 * 60_000;

/**
 * Which gateway took which report of the chain, and when, until the origin has acknowledged it. A gateway says "taken", and may
 * pass nothing on. What it took and the origin doesn't acknowledge goes to the next gateway, so round: to one of them in each
 * period, so that an origin that is slow, or away, costs no more than with one gateway. Kept in memory alone.
 */
export class TakenReports {
  readonly #now: () => number;
  /** By gateway: by number, milliseconds. */
  readonly #byUrl = new Map<string, Map<number, number>>();
  /** Gateways that left reports unacknowledged; the one that did so longest ago first. */
  readonly #silent = new Set<string>();
  #epoch = '';

  constructor(now: () => number) {
    this.#now = now;
  }

  /** A run over the gateways begins. @param pending numbers of those that the origin hasn't acknowledged */
  begin(epoch: string, pending: ReadonlySet<number>): void {
    if (epoch !== this.#epoch) this.clear();
    this.#epoch = epoch;
    for (const [url, taken] of this.#byUrl)
      if (this.#hasBrought(url, taken, pending)) this.#silent.delete(url);
    for (const [url, taken] of this.#byUrl) {
      const overdue = [...taken.keys()].filter(seq => pending.has(seq) && !this.isRecent(url, seq));
      for (const seq of [...taken.keys()].filter(each => !pending.has(each)).concat(overdue))
        taken.delete(seq);
      if (overdue.length === 0) continue;
      // To the end: it's its turn again after all others.
      this.#silent.delete(url);
      this.#silent.add(url);
    }
  }

  /** Whether the origin has acknowledged one that no other gateway took: then this one passed it on. */
  #hasBrought(url: string, taken: ReadonlyMap<number, number>, pending: ReadonlySet<number>): boolean {
    const others = [...this.#byUrl].filter(([other]) => other !== url).map(([, byOther]) => byOther);
    return [...taken.keys()].some(seq => !pending.has(seq) && !others.some(byOther => byOther.has(seq)));
  }

  /** In the order in which they are preferred, those that left reports unacknowledged last. */
  inOrder(gateways: readonly Gateway[]): Gateway[] {
    const silent = [...this.#silent].flatMap(url => gateways.filter(gateway => gateway.url === url));
    return [...gateways.filter(({ url }) => !this.#silent.has(url)), ...silent];
  }

  isRecent(url: string, seq: number): boolean {
    const atMs = this.#byUrl.get(url)?.get(seq);
    return atMs !== undefined && Math.abs(this.#now() - atMs) < RESEND_AFTER_MS;
  }

  note(url: string, seqs: readonly number[]): void {
    const taken = this.#byUrl.get(url) ?? new Map<number, number>();
    this.#byUrl.set(url, taken);
    for (const seq of seqs) taken.set(seq, this.#now());
  }

  /** All are to be sent again. */
  clear(): void {
    this.#byUrl.clear();
  }
}
