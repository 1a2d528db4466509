/**
 * Calls `act` for every item, at most `limit` at a time, taking items from the iterable only as they are needed.
 * After the first failure no further item is taken; it is thrown once those under way have ended.
 */
export async function forEachBounded<T>(
  items: Iterable<T>,
  limit: number,
  act: (item: T) => Promise<void>,
): Promise<void> {
  const iterator = items[Symbol.iterator]();
  let failed = false;
  const work = async (): Promise<void> => {
    while (!failed) {
      const next = iterator.next();
      if (next.done === true) return;
      try {
        await act(next.value);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const results = await Promise.allSettled(Array.from({ length: limit }, work));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

/** Runs asynchronous actions one after the other, in the order of their calls. */
export class Serial {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(act: () => Promise<T>): Promise<T> {
    const result = this.#last.then(act);
    // A failure is its caller's; the queue goes on.
    this.#last = result.catch(() => undefined);
    return result;
  }

  /** Resolves when everything queued so far has ended. */
  async idle(): Promise<void> {
    await this.#last;
  }
}
