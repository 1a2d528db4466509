import { access } from 'node:fs/promises';
import { sleep } from '@sitecast/shared/async';
import type { AgentClock } from '../ports.ts';

/** There while systemd-timesyncd (or chrony's and ntpd's wait units) holds the clock for synchronised. */
const SYNCHRONISED_FILE = '/run/systemd/timesync/synchronized';
const TIMESYNC_DIRECTORY = '/run/systemd/timesync';

/** @param timeSync `yes` and `no` overrule what the system says */
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
    // Any reason is as good as its absence.
    return false;
  }
}
