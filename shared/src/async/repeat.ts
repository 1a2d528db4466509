/** Calls `act` once after a delay. @returns a function that cancels the call */
export type After = (delayMs: number, act: () => void) => () => void;

/**
 * Runs an action again and again, with a pause before each run. The action handles its own failures: one that it throws is an
 * unhandled rejection.
 * @param timing.after the timer; tests replace it
 * @returns a function that stops it, and resolves once a running action has ended
 */
export function repeat(
  act: () => Promise<void>,
  { everyMs, after }: { everyMs: number; after: After },
): () => Promise<void> {
  let isStopped = false;
  let underWay = Promise.resolve();
  let cancel = (): void => {};
  const schedule = (): void => {
    if (isStopped) return;
    cancel = after(everyMs, () => {
      underWay = act().finally(schedule);
    });
  };
  schedule();
  return async () => {
    isStopped = true;
    cancel();
    await underWay;
  };
}
