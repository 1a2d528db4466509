/** How much waits, of one sender or of all. */
export interface Amount {
  reports: number;
  bytes: number;
}

/** A report that waits, by its number in the order of arrival. */
export interface Waiting {
  arrival: number;
  bytes: number;
  id: string;
}

export interface Queued extends Waiting {
  /** The name of its queue. */
  queue: string;
}

/** The queue of all senders that this gateway knows no assignment of. */
const STRANGERS = '';

/** The waiting reports of one sender, oldest first. */
class Queue implements Amount {
  readonly items: Queued[] = [];
  bytes = 0;

  get reports(): number {
    return this.items.length;
  }

  insert(item: Queued): void {
    this.items.splice(this.placeAfter(item.arrival), 0, item);
    this.bytes += item.bytes;
  }

  remove(arrival: number): Queued | undefined {
    const at = this.placeAfter(arrival) - 1;
    if (this.items[at]?.arrival !== arrival) return undefined;
    const [item] = this.items.splice(at, 1);
    this.bytes -= item?.bytes ?? 0;
    return item;
  }

  /** The place of the first report that came after another. */
  placeAfter(arrival: number): number {
    let low = 0;
    let high = this.items.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.items[middle]?.arrival ?? 0) <= arrival) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/**
 * The waiting reports, with a queue for each device: they decide the order of sending, and which reports make room. In memory only; the
 * records are durable.
 */
export class ReportTurns {
  readonly #queues = new Map<string, Queue>();
  readonly #total: Amount = { reports: 0, bytes: 0 };

  get total(): Readonly<Amount> {
    return this.#total;
  }

  /** How much waits of one device that is known here. */
  of(id: string): Readonly<Amount> {
    return this.#queues.get(id) ?? NOTHING;
  }

  get ofStrangers(): Readonly<Amount> {
    return this.of(STRANGERS);
  }

  add(item: Waiting, isKnown: boolean): void {
    if (isKnown) this.#claim(item.id);
    this.#insert(isKnown ? item.id : STRANGERS, item);
    this.#total.reports += 1;
    this.#total.bytes += item.bytes;
  }

  remove({ arrival, id }: Pick<Waiting, 'arrival' | 'id'>): void {
    for (const name of [id, STRANGERS]) {
      const queue = this.#queues.get(name);
      const item = queue?.remove(arrival);
      if (!item) continue;
      if (queue?.reports === 0) this.#queues.delete(name);
      this.#total.reports -= 1;
      this.#total.bytes -= item.bytes;
      return;
    }
  }

  /** @returns the oldest reports of unknown senders that must make room so that those don't exceed their bound */
  excessOfStrangers(more: Amount, max: Amount): Waiting[] {
    const { items, reports, bytes } = this.#queues.get(STRANGERS) ?? new Queue();
    const left = { reports: reports + more.reports, bytes: bytes + more.bytes };
    const going: Waiting[] = [];
    for (const item of items) {
      if (!exceeds(left, max)) break;
      going.push(item);
      left.reports -= 1;
      left.bytes -= item.bytes;
    }
    return going;
  }

  /**
   * Room for a known device when all devices together have reached the bound: the device that has the most loses its newest reports. (It
   * still has them, and the origin gets the older ones first.)
   * @returns the reports that make room; undefined if no device has more than this one would have
   */
  roomFor(id: string, more: Amount, max: Amount): Waiting[] | undefined {
    const left = { reports: this.#total.reports + more.reports, bytes: this.#total.bytes + more.bytes };
    const own = shareOf(
      { reports: this.of(id).reports + more.reports, bytes: this.of(id).bytes + more.bytes },
      max,
    );
    const remaining = new Map<string, Amount>();
    const going: Waiting[] = [];
    while (exceeds(left, max)) {
      let most: [name: string, queue: Queue, amount: Amount] | undefined;
      for (const [name, queue] of this.#queues) {
        const amount = remaining.get(name) ?? queue;
        if (name !== id && shareOf(amount, max) > (most ? shareOf(most[2], max) : own))
          most = [name, queue, amount];
      }
      const item = most?.[1].items[most[2].reports - 1];
      if (!most || !item) return undefined;
      const [name, , { reports, bytes }] = most;
      remaining.set(name, { reports: reports - 1, bytes: bytes - item.bytes });
      left.reports -= 1;
      left.bytes -= item.bytes;
      going.push(item);
    }
    return going;
  }

  /** Every waiting report once, one of each sender in turn; those of one sender in order. */
  round(): Round {
    return new Round(this.#queues);
  }

  /** Called when a sender has become known: its reports move to a queue of its own, in order. */
  #claim(id: string): void {
    const strangers = this.#queues.get(STRANGERS);
    if (!strangers || this.#queues.has(id)) return;
    for (const item of strangers.items.filter(other => other.id === id)) {
      strangers.remove(item.arrival);
      this.#insert(id, item);
    }
    if (strangers.reports === 0) this.#queues.delete(STRANGERS);
  }

  #insert(name: string, item: Waiting): void {
    const queue = this.#queues.get(name) ?? new Queue();
    this.#queues.set(name, queue);
    queue.insert({ ...item, queue: name });
  }
}

/** A round through all queues. Reports that come during the round are part of it. */
export class Round {
  readonly #queues: Map<string, Queue>;
  /** By queue: its newest report that had its turn. */
  readonly #passed = new Map<string, number>();

  /** @param queues those whose turn was longest ago come first */
  constructor(queues: Map<string, Queue>) {
    this.#queues = queues;
  }

  /** The next reports, at least one if any is left. `pass` marks them as sent in this round. */
  next(
    { maxReports, maxBytes }: { maxReports: number; maxBytes: number },
    isHeld: (id: string) => boolean = () => false,
  ): Queued[] {
    const found: Queued[] = [];
    let bytes = 0;
    let turns = [...this.#queues].map(([name, queue]) => ({
      items: queue.items,
      at: queue.placeAfter(this.#passed.get(name) ?? -1),
    }));
    while (turns.length > 0) {
      turns = turns.filter(({ items, at }) => at < items.length);
      for (const turn of turns) {
        const item = turn.items[turn.at];
        turn.at += 1;
        if (!item || isHeld(item.id)) continue;
        bytes += item.bytes;
        if (found.length === maxReports || (found.length > 0 && bytes > maxBytes)) return found;
        found.push(item);
      }
    }
    return found;
  }

  pass(items: readonly Queued[]): void {
    for (const { queue: name, arrival } of items) {
      this.#passed.set(name, Math.max(arrival, this.#passed.get(name) ?? -1));
      const queue = this.#queues.get(name);
      if (!queue) continue;
      this.#queues.delete(name);
      this.#queues.set(name, queue);
    }
  }
}

const NOTHING: Amount = { reports: 0, bytes: 0 };

export function exceeds(amount: Amount, max: Amount): boolean {
  return amount.reports > max.reports || amount.bytes > max.bytes;
}

/** The larger of the two shares of what may wait. */
function shareOf({ reports, bytes }: Amount, max: Amount): number {
  return Math.max(reports / max.reports, bytes / max.bytes);
}
