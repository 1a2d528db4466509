import { sleep } from '@sitecast/shared/async';
import type { Log } from '@sitecast/shared/log';

/** How soon a part of the gateway starts again after it failed without a reason of Sitecast's. */
const RESTART_AFTER_MS = 1000;

/** A part of the gateway at work. Ends when the signal comes; it may throw the signal's reason then. */
export type Task = (signal: AbortSignal) => Promise<void>;

interface Run {
  log: Log;
  signal: AbortSignal;
  restartAfterMs?: number;
}

/**
 * Runs tasks side by side until the signal comes and all of them have stopped. One that fails starts again.
 * @param tasks by their names in the log
 */
export async function runTasks(
  tasks: Record<string, Task>,
  { log, signal, restartAfterMs = RESTART_AFTER_MS }: Run,
): Promise<void> {
  await Promise.all(
    Object.entries(tasks).map(async ([name, run]) => {
      // One each, so that what waits for it in one task is not counted with what waits in others.
      const own = AbortSignal.any([signal]);
      while (!signal.aborted) {
        try {
          await run(own);
        } catch (error) {
          // To be stopped is no failure.
          if (signal.aborted && error === signal.reason) return;
          log.error({ err: error, part: name }, 'a part of the gateway failed; it starts again');
        }
        await sleep(restartAfterMs, own);
      }
    }),
  );
}
