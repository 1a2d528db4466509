import { sleep as sleepFor } from './sleep.ts';

/** What one source has said. */
export type Answer<S, T> = { source: S } & ({ found: T | undefined } | { error: unknown });

export interface InTurnOptions<S, T, A> {
  /** @returns what counts; undefined where the source has failed, or hasn't got it. What it throws ends the whole. */
  accept: (answer: Answer<S, T>) => A | undefined;
  signal?: AbortSignal | undefined;
  /** A source that hasn't answered by then isn't waited for alone: the next one is asked as well. Default: each is waited for. */
  hedgeAfterMs?: number | undefined;
  sleep?: ((lengthMs: number, signal: AbortSignal) => Promise<unknown>) | undefined;
}

/**
 * Asks sources in their order. The next one is asked as soon as the one before has failed, or has taken too long. The first answer that
 * counts ends it, and the others are called off.
 * @param ask its signal comes once the answer isn't waited for any more; without hedging it is the caller's own
 * @returns the answer, and the sources that were asked before or beside its own and said nothing; undefined where no source has one
 * @throws the signal's reason; what `accept` throws
 */
export async function askInTurn<S, T, A>(
  sources: readonly S[],
  ask: (source: S, signal: AbortSignal | undefined) => Promise<T | undefined>,
  { accept, signal, hedgeAfterMs, sleep = sleepFor }: InTurnOptions<S, T, A>,
): Promise<{ accepted: A; overtaken: S[] } | undefined> {
  signal?.throwIfAborted();
  const done = new AbortController();
  const until =
    hedgeAfterMs === undefined ? signal : AbortSignal.any([done.signal, ...(signal ? [signal] : [])]);
  const asked = new Map<S, Promise<Answer<S, T>>>();
  const waiting = [...sources];
  const firstOf = async (over: AbortSignal | undefined): Promise<Answer<S, T> | undefined> => {
    if (hedgeAfterMs === undefined || !over) return await Promise.race(asked.values());
    const answered = new AbortController();
    const slept = sleep(hedgeAfterMs, AbortSignal.any([over, answered.signal])).then(() => undefined);
    try {
      return await Promise.race([...asked.values(), slept]);
    } finally {
      answered.abort();
    }
  };
  try {
    for (;;) {
      const next = waiting.shift();
      if (next !== undefined) asked.set(next, answerOf(next, ask(next, until)));
      if (asked.size === 0) return undefined;
      const answer = await firstOf(waiting.length > 0 ? until : undefined);
      signal?.throwIfAborted();
      if (!answer) continue;
      asked.delete(answer.source);
      const accepted = accept(answer);
      if (accepted !== undefined) return { accepted, overtaken: [...asked.keys()] };
    }
  } finally {
    done.abort();
  }
}

/** Never rejects: an answer that isn't waited for any more is no failure. */
async function answerOf<S, T>(source: S, answer: Promise<T | undefined>): Promise<Answer<S, T>> {
  try {
    return { source, found: await answer };
  } catch (error) {
    return { source, error };
  }
}
