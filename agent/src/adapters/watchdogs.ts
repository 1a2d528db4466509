import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { resolve } from 'node:path';
import { promisify } from 'node:util';
import { syncDirectory } from '@sitecast/shared/durable';
import { isSystemError } from '@sitecast/shared/errors';
import type { AgentClock, Log } from '../ports.ts';
import type { RunSettings } from '../settings.ts';
import { systemClock } from './system-clock.ts';

const run = promisify(execFile);

/** Milliseconds between two feedings of a hardware watchdog. Most time out after 10 seconds or more. */
const FEED_MS = 3000;
/** Of systemd's WatchdogSec: it recommends half of it. */
const FEEDINGS_PER_TIMEOUT = 3;
/** Milliseconds between two looks at the disk, and what one may take. A disk that doesn't answer any more takes for ever. */
const DISK_CHECK_MS = 30_000;
const WELL_WITHIN_MS = 5000;
/** systemd waits for such a message no longer either. */
const NOTIFY_MS = 5000;
/** What tells a watchdog's driver that the closing is meant: it stops, instead of booting the machine. */
const MAGIC_CLOSE = 'V';

interface FeedingContext {
  clock: Pick<AgentClock, 'sleep'>;
  log: Log;
  /** Fires when the feeding ends. */
  stop: AbortSignal;
}

/**
 * Says whether the agent is well: this event loop turns, and the disk of its data answers. An update that fails, a gateway that is away, a
 * full disk: with all of them it is well, and another boot wouldn't help.
 */
export function wellness(data: string, { clock, stop }: FeedingContext): () => Promise<boolean> {
  let answeredAtMs = Number.NEGATIVE_INFINITY;
  let pending: Promise<void> | undefined;
  /** A flush reaches the disk, and writes nothing where nothing has changed. */
  const flush = async (): Promise<void> => {
    try {
      await syncDirectory(data);
      answeredAtMs = performance.now();
    } catch (error) {
      // Any other answer is one, too: the directory isn't there yet, say.
      if (!isSystemError(error, 'EIO')) answeredAtMs = performance.now();
    } finally {
      pending = undefined;
    }
  };
  return async () => {
    if (performance.now() - answeredAtMs < DISK_CHECK_MS) return true;
    // One at a time: a disk that hangs must not take all threads.
    pending ??= flush();
    const over = new AbortController();
    await Promise.race([pending, clock.sleep(WELL_WITHIN_MS, AbortSignal.any([stop, over.signal]))]);
    over.abort();
    return performance.now() - answeredAtMs < DISK_CHECK_MS;
  };
}

/**
 * Tells systemd that the agent is up, and feeds systemd's watchdog and the machine's while the agent is well.
 * @returns how it ends: the feeding stops, and the machine's watchdog with it
 */
export async function beWatched(
  { data, timeSync, watchdog }: Pick<RunSettings, 'data' | 'timeSync' | 'watchdog'>,
  log: Log,
): Promise<{ end: () => Promise<void> }> {
  const ended = new AbortController();
  const context = { clock: systemClock(timeSync), log, stop: ended.signal };
  const manager = new ServiceManager(process.env, context);
  await manager.ready();
  const hardware = watchdog === undefined ? undefined : await HardwareWatchdog.open(watchdog, context);
  const isStillWell = wellness(resolve(data), context);
  const feeding = [manager.feed(isStillWell), ...(hardware ? [hardware.feed(isStillWell)] : [])];
  return {
    end: async () => {
      ended.abort();
      await Promise.all(feeding);
      await hardware?.close();
    },
  };
}

/** systemd, where it runs this process as a unit of `Type=notify`: by `systemd-notify`, as Node has no sockets for datagrams of that kind. */
class ServiceManager {
  readonly #environment: NodeJS.ProcessEnv;
  readonly #context: FeedingContext;

  constructor(environment: NodeJS.ProcessEnv, context: FeedingContext) {
    this.#environment = environment;
    this.#context = context;
  }

  /** The service is up. Where nothing waits for that, it does nothing. */
  async ready(): Promise<void> {
    await this.#tell('READY=1');
  }

  /** Says that it is alive, while it is well, until it stops. Does nothing without `WatchdogSec`. */
  async feed(isStillWell: () => Promise<boolean>): Promise<void> {
    const { WATCHDOG_USEC: timeoutUs, WATCHDOG_PID: pid } = this.#environment;
    const isMeant = pid === undefined || Number(pid) === process.pid;
    const everyMs = Number(timeoutUs ?? 0) / 1000 / FEEDINGS_PER_TIMEOUT;
    if (!isMeant || !(everyMs > 0)) return;
    await everySo(this.#context, everyMs, isStillWell, () => this.#tell('WATCHDOG=1'));
  }

  async #tell(state: string): Promise<void> {
    if (this.#environment.NOTIFY_SOCKET === undefined) return;
    try {
      await run('systemd-notify', [state], { env: this.#environment, timeout: NOTIFY_MS });
    } catch (error) {
      this.#context.log('warn', `systemd isn't told ${state}: systemd-notify fails`, { err: error });
    }
  }
}

/** A watchdog of the machine. Once open it boots the machine unless it is fed. */
export class HardwareWatchdog {
  readonly #device: FileHandle;
  readonly #context: FeedingContext;
  readonly #path: string;

  private constructor(path: string, device: FileHandle, context: FeedingContext) {
    this.#path = path;
    this.#device = device;
    this.#context = context;
  }

  /** @returns undefined where it can't be opened, which is logged: another program has it, say. A device without watchdog is still updated */
  static async open(path: string, context: FeedingContext): Promise<HardwareWatchdog | undefined> {
    try {
      return new HardwareWatchdog(path, await open(path, constants.O_WRONLY), context);
    } catch (error) {
      if (!isSystemError(error)) throw error;
      context.log('error', `the watchdog isn't fed by this agent: ${error.message}`, { err: error });
      return undefined;
    }
  }

  async feed(isStillWell: () => Promise<boolean>): Promise<void> {
    await everySo(this.#context, FEED_MS, isStillWell, async () => {
      await this.#device.write('\0');
    });
  }

  /** The agent stops in order: the watchdog stops, too, where its driver allows that. */
  async close(): Promise<void> {
    try {
      await this.#device.write(MAGIC_CLOSE);
    } catch (error) {
      if (!isSystemError(error)) throw error;
      this.#context.log('warn', `${this.#path} isn't stopped: ${error.message}`);
    } finally {
      await this.#device.close();
    }
  }
}

/** Feeds at once, then every so often. Never throws: what isn't fed boots the machine. */
async function everySo(
  { clock, log, stop }: FeedingContext,
  everyMs: number,
  isStillWell: () => Promise<boolean>,
  feed: () => Promise<void>,
): Promise<void> {
  let wasWell = true;
  while (!stop.aborted) {
    const isNowWell = await isStillWell();
    if (stop.aborted) return;
    if (isNowWell)
      await feed().catch((error: unknown) => log('error', 'a watchdog is not fed', { err: error }));
    else if (wasWell) log('error', "the disk of --data doesn't answer: no watchdog is fed until it does");
    wasWell = isNowWell;
    await clock.sleep(everyMs, stop);
  }
}
