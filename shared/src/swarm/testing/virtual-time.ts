// For tests only: a clock that jumps from one event to the next.

interface Event {
  readonly atMs: number;
  readonly number: number;
  readonly act: () => void;
  isCalledOff: boolean;
}

/** Events in the order of their time; those of the same time in the order in which they were planned. */
export class VirtualTime {
  #nowMs = 0;
  #planned = 0;
  /** A binary heap. */
  readonly #events: Event[] = [];

  readonly now = (): number => this.#nowMs;

  /** @returns a function that cancels it */
  readonly after = (delayMs: number, act: () => void): (() => void) => {
    const event = { atMs: this.#nowMs + delayMs, number: this.#planned++, act, isCalledOff: false };
    this.#push(event);
    return () => {
      event.isCalledOff = true;
    };
  };

  /** @returns a function that ends it */
  readonly every = (periodMs: number, act: () => void): (() => void) => {
    let callOff = (): void => {};
    const again = (): void => {
      callOff = this.after(periodMs, again);
      act();
    };
    callOff = this.after(periodMs, again);
    return () => callOff();
  };

  readonly sleep = (delayMs: number): Promise<void> => new Promise(resolve => this.after(delayMs, resolve));

  /** Lets time pass until `isOver`, or until nothing is planned. After the events of each moment, everything that waits for them continues. */
  async pass(isOver: () => boolean, maxMs: number): Promise<void> {
    while (this.#events.length > 0 && !isOver() && this.#nowMs <= maxMs) {
      const atMs = this.#events[0]?.atMs ?? 0;
      this.#nowMs = atMs;
      while (this.#events[0]?.atMs === atMs) {
        const event = this.#pop();
        if (event && !event.isCalledOff) event.act();
      }
      await new Promise(resolve => setImmediate(resolve));
    }
  }

  #push(event: Event): void {
    const heap = this.#events;
    heap.push(event);
    for (let at = heap.length - 1; at > 0; ) {
      const above = (at - 1) >> 1;
      if (!this.#swapIfLater(above, at)) break;
      at = above;
    }
  }

  #pop(): Event | undefined {
    const heap = this.#events;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    heap[0] = last;
    for (let at = 0; ; ) {
      const [left, right] = [2 * at + 1, 2 * at + 2];
      if (left >= heap.length) break;
      const next = right < heap.length && this.#isLater(left, right) ? right : left;
      if (!this.#swapIfLater(at, next)) break;
      at = next;
    }
    return first;
  }

  #isLater(one: number, other: number): boolean {
    const [a, b] = [this.#events[one], this.#events[other]];
    if (!a || !b) return false;
    return a.atMs > b.atMs || (a.atMs === b.atMs && a.number > b.number);
  }

  #swapIfLater(one: number, other: number): boolean {
    const [a, b] = [this.#events[one], this.#events[other]];
    if (!a || !b || !this.#isLater(one, other)) return false;
    this.#events[one] = b;
    this.#events[other] = a;
    return true;
  }
}
