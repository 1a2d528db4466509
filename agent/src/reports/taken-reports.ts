import type { Gateway } from '../ports.ts';

/** Milliseconds after which a gateway that took a report, and brought no acknowledgement of the origin, isn't relied on. */
const RESEND_AFTER_MS = 5 * 60_000;

/**
 * Which gateway took which report of the chain, and when, until the origin has acknowledged it. A gateway may take a report and never
 * pass it on. A report that was taken and isn't acknowledged goes to the next gateway, one gateway in each period: so an origin that is
 * slow, or away, costs no more than with one gateway. Only kept in memory.
 */
export class TakenReports {
  readonly #now: () => number;
  /** By gateway, then by the report's number: when it was taken, milliseconds. */
  readonly #byUrl = new Map<string, Map<number, number>>();
  /** Gateways that left reports unacknowledged, the longest ago first. */
  readonly #silent = new Set<string>();
  #epoch = '';

  constructor(now: () => number) {
    this.#now = now;
  }

  /** A run over the gateways begins. @param pending numbers of the reports that the origin hasn't acknowledged */
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
      // To the end: its turn comes after all others.
      this.#silent.delete(url);
      this.#silent.add(url);
    }
  }

  /** Whether the origin has acknowledged a report that no other gateway took: then this gateway passed it on. */
  #hasBrought(url: string, taken: ReadonlyMap<number, number>, pending: ReadonlySet<number>): boolean {
    const others = [...this.#byUrl].filter(([other]) => other !== url).map(([, byOther]) => byOther);
    return [...taken.keys()].some(seq => !pending.has(seq) && !others.some(byOther => byOther.has(seq)));
  }

  /** In order of preference. Gateways that left reports unacknowledged come last. */
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

  /** All reports are sent again. */
  clear(): void {
    this.#byUrl.clear();
  }
}
