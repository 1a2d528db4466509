import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { promisify } from 'node:util';
import { syncDirectory } from '@sitecast/shared/durable';
import { isSystemError } from '@sitecast/shared/errors';
import type { AgentClock, Log } from '../ports.ts';
import type { RunSettings } from '../settings.ts';
import { systemClock } from './system-clock.ts';

const run = promisify(execFile);

/** How often a hardware watchdog is fed, in ms. Most time out after 10 seconds or more. */
const FEED_MS = 3000;
/** How often systemd's watchdog is fed within WatchdogSec. systemd recommends twice or more. */
const FEEDINGS_PER_TIMEOUT = 3;
/** How often the disk is checked, in ms, and how long a check may take. A dead disk never answers. */
const DISK_CHECK_MS = 30_000;
const WELL_WITHIN_MS = 5000;
/** In ms. systemd waits no longer for such a message. */
const NOTIFY_MS = 5000;
/** Tells a watchdog's driver that the file is closed intentionally: the watchdog stops instead of rebooting the machine. */
const MAGIC_CLOSE = 'V';

interface FeedingContext {
  clock: Pick<AgentClock, 'sleep'>;
  log: Log;
  /** Aborted when the feeding should end. */
  stop: AbortSignal;
}

/**
 * Whether the agent is well: its event loop runs, and the disk with its data answers. A failed update, an unreachable gateway or a full
 * disk doesn't make it unwell, because a reboot wouldn't help.
 */
export function wellness(data: string, { clock, stop }: FeedingContext): () => Promise<boolean> {
  let answeredAtMs = Number.NEGATIVE_INFINITY;
  let pending: Promise<void> | undefined;
  /** A flush reaches the disk, but writes nothing if nothing has changed. */
  const flush = async (): Promise<void> => {
    try {
      await syncDirectory(data);
      answeredAtMs = performance.now();
    } catch (error) {
      // Any other error is an answer, too, for example that the directory doesn't exist yet.
      if (!isSystemError(error, 'EIO')) answeredAtMs = performance.now();
    } finally {
      pending = undefined;
    }
  };
  return async () => {
    if (performance.now() - answeredAtMs < DISK_CHECK_MS) return true;
    // One check at a time: a disk that hangs must not block all threads.
    pending ??= flush();
    const over = new AbortController();
    await Promise.race([pending, clock.sleep(WELL_WITHIN_MS, AbortSignal.any([stop, over.signal]))]);
    over.abort();
    return performance.now() - answeredAtMs < DISK_CHECK_MS;
  };
}

/**
 * Tells systemd that the agent is ready, and feeds systemd's watchdog and the machine's while the agent is well.
 * @returns a function that stops the feeding and the machine's watchdog
 */
export async function beWatched(
  { data, timeSync, watchdog }: Pick<RunSettings, 'data' | 'timeSync' | 'watchdog'>,
  log: Log,
): Promise<{ watchdog: WatchdogStatus | undefined; end: () => Promise<void> }> {
  const ended = new AbortController();
  const context = { clock: systemClock(timeSync), log, stop: ended.signal };
  const manager = new ServiceManager(process.env, context);
  await manager.ready();
  const opened = watchdog === undefined ? undefined : await HardwareWatchdog.open(watchdog, context);
  const hardware = opened instanceof HardwareWatchdog ? opened : undefined;
  const isStillWell = wellness(resolve(data), context);
  const feeding = [manager.feed(isStillWell), ...(hardware ? [hardware.feed(isStillWell)] : [])];
  return {
    watchdog: watchdog === undefined ? undefined : watchdogStatus(watchdog, opened),
    end: async () => {
      ended.abort();
      await Promise.all(feeding);
      await hardware?.close();
    },
  };
}

/** The watchdog that the settings name, and why it isn't fed; for the status. */
type WatchdogStatus = { path: string; problem?: string };

const watchdogStatus = (path: string, opened: HardwareWatchdog | string | undefined): WatchdogStatus => ({
  path,
  ...(typeof opened === 'string' && { problem: opened }),
});

/** systemd, if it runs this process as a unit of `Type=notify`. Called through `systemd-notify`, as Node has no Unix datagram sockets. */
class ServiceManager {
  readonly #environment: NodeJS.ProcessEnv;
  readonly #context: FeedingContext;

  constructor(environment: NodeJS.ProcessEnv, context: FeedingContext) {
    this.#environment = environment;
    this.#context = context;
  }

  /** Says that the service is ready. Does nothing where systemd doesn't expect that. */
  async ready(): Promise<void> {
    await this.#tell('READY=1');
  }

  /** Says that the agent is alive, while it is well, until it stops. Does nothing without `WatchdogSec`. */
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

/** A watchdog of the machine. Once it is open, it reboots the machine unless it is fed. */
export class HardwareWatchdog {
  readonly #device: FileHandle;
  readonly #context: FeedingContext;
  readonly #path: string;

  private constructor(path: string, device: FileHandle, context: FeedingContext) {
    this.#path = path;
    this.#device = device;
    this.#context = context;
  }

  /**
   * @returns why it can't be opened, for example because another program has it; that is logged. A device without a watchdog
   * is updated, too
   */
  static async open(path: string, context: FeedingContext): Promise<HardwareWatchdog | string> {
    try {
      return new HardwareWatchdog(path, await open(path, constants.O_WRONLY), context);
    } catch (error) {
      if (!isSystemError(error)) throw error;
      context.log('error', `the watchdog isn't fed by this agent: ${error.message}`, { err: error });
      return error.message;
    }
  }

  async feed(isStillWell: () => Promise<boolean>): Promise<void> {
    await everySo(this.#context, FEED_MS, isStillWell, async () => {
      await this.#device.write('\0');
    });
  }

  /** Called when the agent stops properly: the watchdog stops, too, if its driver allows that. */
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

/** Looks for a watchdog without opening it, which would arm it. */
export async function watchdogAt(path: string): Promise<{ path: string; problem: string | undefined }> {
  try {
    const isDevice = (await stat(path)).isCharacterDevice();
    return { path, problem: isDevice ? undefined : 'it is no device' };
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return { path, problem: error.message };
  }
}

/** Runs at once, then regularly. Never throws: if feeding fails, the watchdog reboots the machine. */
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
