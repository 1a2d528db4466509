import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { isSystemError } from '../errors.ts';

/** A wait fails once nothing has changed for this long, measured on a machine without other load. */
const PATIENCE_MS = 60_000;
/** The first polls are close together, later ones further apart, because each poll costs time. */
const FIRST_LOOK_MS = 1;
const LAST_LOOK_MS = 200;
const SLOWER = 1.3;
/** How often the processor time of the processes is measured. */
const MEASURE_EVERY_MS = 500;

/**
 * A clock that stands still while the processes wait for a processor. On a machine with ten times the load it runs at a tenth of the
 * speed, so a wait may take longer there.
 */
class ServedClock {
  readonly #pids: () => Iterable<number>;
  readonly #before = new Map<number, Scheduled>();
  #lookedMs = performance.now();
  #servedMs = 0;

  constructor(pids: () => Iterable<number>) {
    this.#pids = pids;
    this.#measure();
  }

  /** Milliseconds that have passed on this clock. */
  now(): number {
    const passedMs = performance.now() - this.#lookedMs;
    if (passedMs >= MEASURE_EVERY_MS) {
      this.#servedMs += passedMs * this.#measure();
      this.#lookedMs = performance.now();
    }
    return this.#servedMs;
  }

  /**
   * @returns the share that the processes got, since the last measurement, of the processor time that they wanted; 1 where they wanted none
   */
  #measure(): number {
    let [ran, waited] = [0, 0];
    for (const pid of [process.pid, ...this.#pids()]) {
      const now = scheduled(pid);
      if (!now) continue;
      const before = this.#before.get(pid) ?? now;
      ran += now.ran - before.ran;
      waited += now.waited - before.waited;
      this.#before.set(pid, now);
    }
    return ran + waited > 0 ? ran / (ran + waited) : 1;
  }
}

interface Scheduled {
  ran: number;
  waited: number;
}

/** How long a process has run and has waited to run, in nanoseconds; undefined if it has ended or the system doesn't say. */
function scheduled(pid: number): Scheduled | undefined {
  try {
    const [ran = 0, waited = 0] = readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ').map(Number);
    return { ran, waited };
  } catch (error) {
    if (isSystemError(error)) return undefined;
    throw error;
  }
}

interface UntilOptions {
  /** Processes whose work is awaited, besides this one. */
  pids?: () => Iterable<number>;
  /** A sign of progress: while its value changes, the wait goes on. */
  progress?: () => unknown;
}

/**
 * Waits until a condition holds.
 * @param what for the message of the error
 * @throws once nothing has changed for a minute of the machine's time for these processes
 */
export async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  { pids = () => [], progress = () => undefined }: UntilOptions = {},
): Promise<void> {
  const clock = new ServedClock(pids);
  let changedMs = 0;
  let last = progress();
  for (let everyMs = FIRST_LOOK_MS; !(await holds()); everyMs = Math.min(everyMs * SLOWER, LAST_LOOK_MS)) {
    const seen = progress();
    if (seen !== last) changedMs = clock.now();
    last = seen;
    if (clock.now() - changedMs > PATIENCE_MS) throw new Error(`waited in vain for ${what}`);
    await sleep(everyMs);
  }
}
