import type { DeviceState, Rollout } from '@sitecast/shared/fleet';
import type { Standing } from './controller/ledger.ts';

interface ReturnFacts {
  standing: Standing;
  /** By its newest report about the rollout. */
  state: DeviceState | undefined;
  /** Counter of the release that it runs; 0 where that's unknown. */
  booted: number;
  /** Counter of the release that its newest report is about. */
  about: number | undefined;
}

/** States in which a device that still runs another release is about to run this one. */
const ON_THE_WAY: ReadonlySet<DeviceState> = new Set(['installing', 'rebooting', 'confirming']);

type Place = 'left' | 'stuck' | 'returned' | undefined;

/** Where a device stands on the way back; undefined for one that has nothing to go back from. */
export function returnOf({ release }: Pick<Rollout, 'release'>, facts: ReturnFacts): Place {
  const { standing, state, booted } = facts;
  if (standing === 'gone') return undefined;
  if (standing === 'returned') return 'returned';
  if (standing === 'well') return 'left';
  if (booted === release.counter) return whereItRuns(release, facts);
  // Nobody knows what it runs.
  if (booted === 0 && standing === 'blocked') return 'stuck';
  if (booted === 0 && standing === 'running') return 'left';
  return standing === 'running' && state !== undefined && ON_THE_WAY.has(state) ? 'left' : undefined;
}

/** One that failed falls back by itself. One that failed on the way back stays where it is. */
function whereItRuns({ counter }: Rollout['release'], { standing, state, about }: ReturnFacts): Place {
  if (standing === 'blocked') return 'stuck';
  if (standing !== 'failed') return 'left';
  if (state === 'rolledBack' || state === 'blocked') return 'stuck';
  return state === 'failed' && about !== undefined && about !== counter ? 'stuck' : 'left';
}
