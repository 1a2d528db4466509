import { access } from 'node:fs/promises';
import { sleep } from '@sitecast/shared/async';
import type { AgentClock } from '../ports.ts';

/** This file exists while systemd-timesyncd (or the wait units of chrony and ntpd) takes the clock for synchronized. */
const SYNCHRONISED_FILE = '/run/systemd/timesync/synchronized';
const TIMESYNC_DIRECTORY = '/run/systemd/timesync';

/** @param timeSync `yes` and `no` override what the system says */
export function systemClock(timeSync: 'auto' | 'yes' | 'no'): AgentClock {
  return {
    now: () => Date.now(),
    isSynchronised: async () => {
      if (timeSync !== 'auto') return timeSync === 'yes';
      if (await isThere(SYNCHRONISED_FILE)) return true;
      return (await isThere(TIMESYNC_DIRECTORY)) ? false : undefined;
    },
    sleep: async (ms, signal) => {
      await sleep(ms, signal, { ref: true });
    },
  };
}

async function isThere(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    // A file that isn't accessible counts as missing.
    return false;
  }
}
