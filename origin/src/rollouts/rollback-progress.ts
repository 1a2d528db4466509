import type { RollbackProgress } from '@sitecast/shared/api';
import type { DeviceState, Rollout } from '@sitecast/shared/fleet';
import type { DeviceStatus } from './controller/cohort-tracker.ts';

interface RollbackFacts {
  status: DeviceStatus;
  /** By the device's newest report about the rollout. */
  state: DeviceState | undefined;
  /** Counter of the release that the device runs; 0: unknown. */
  booted: number;
  /** Counter of the release that its newest report is about. */
  about: number | undefined;
}

/** States in which a device that still runs another release is about to run this one. */
const ON_THE_WAY: ReadonlySet<DeviceState> = new Set(['installing', 'rebooting', 'confirming']);

type Place = keyof Omit<RollbackProgress, 'lateLeft'> | undefined;

/** How far a device has got on the way back; undefined if it has nothing to go back from. */
export function placeOf({ release }: Pick<Rollout, 'release'>, facts: RollbackFacts): Place {
  const { status, state, booted } = facts;
  if (status === 'decommissioned') return undefined;
  if (status === 'returned') return 'returned';
  if (status === 'succeeded') return 'left';
  if (booted === release.counter) return placeOfRunning(release, facts);
  // The release that it runs is unknown.
  if (booted === 0 && status === 'blocked') return 'stuck';
  if (booted === 0 && status === 'running') return 'left';
  return status === 'running' && state !== undefined && ON_THE_WAY.has(state) ? 'left' : undefined;
}

/** A device that failed falls back by itself. A device that failed on the way back stays where it is. */
function placeOfRunning({ counter }: Rollout['release'], { status, state, about }: RollbackFacts): Place {
  if (status === 'blocked') return 'stuck';
  if (status !== 'failed') return 'left';
  if (state === 'rolledBack' || state === 'blocked') return 'stuck';
  return state === 'failed' && about !== undefined && about !== counter ? 'stuck' : 'left';
}
