import {
  type Assignment,
  type DeltaAbility,
  eligibilityOf,
  type Rollout,
  type RolloutsFile,
} from '@sitecast/shared/fleet';
import type { RunningDevice } from '../devices/site-devices.ts';
import type { MirrorSet } from '../mirror/mirror-set.ts';

/** What is known of the devices of this site. */
export interface SiteUpdates {
  devicesOf: (product: string) => Iterable<Assignment>;
  /** What a device runs and can do; undefined where this gateway doesn't know. */
  runningOf: (id: string) => RunningDevice | undefined;
}

/** An update of devices of this site. */
export interface Wanted {
  rollout: Rollout;
  product: string;
  /** Of the release that devices are to install. */
  counter: number;
  /** What they come from, each once. */
  bases: readonly Base[];
}

/** Devices that come from the same release and can do the same with deltas. */
export interface Base {
  /** Counter of the release that they run; undefined: nothing tells. */
  from: number | undefined;
  /** Undefined: they use no deltas. `unheard`: they haven't reported, so they may be able to do anything. */
  ability: DeltaAbility | undefined | 'unheard';
  /** All of them leave deltas alone where this gateway says so. */
  takesSiteWay: boolean;
}

/** The updates that rollouts under way mean for the devices of this site, the newest of each product first. */
export function* wantedUpdates(
  { rollouts }: Pick<MirrorSet, 'rollouts'>,
  { devicesOf, runningOf }: SiteUpdates,
): Generator<Wanted> {
  for (const file of rollouts.values()) {
    const devices = [...devicesOf(file.product)];
    const baseline = baselineOf(file);
    for (const rollout of [...file.rollouts].reverse()) {
      if (rollout.state !== 'active') continue;
      const { counter } = rollout.release;
      const bases = new Map<string, Base>();
      for (const device of devices) {
        const running = runningOf(device.id);
        if (running?.counter === counter || !isFor(rollout, device, running?.counter)) continue;
        const base = baseOf(running, baseline);
        const key = JSON.stringify([base.from, base.ability]);
        const isSoWithOthers = bases.get(key)?.takesSiteWay !== false;
        bases.set(key, { ...base, takesSiteWay: base.takesSiteWay && isSoWithOthers });
      }
      if (bases.size > 0) yield { rollout, product: file.product, counter, bases: [...bases.values()] };
    }
  }
}

function baseOf(running: RunningDevice | undefined, baseline: number | undefined): Base {
  if (!running) return { from: baseline, ability: 'unheard', takesSiteWay: false };
  const { counter, ability, takesSiteWay } = running;
  return { from: counter, ability, takesSiteWay };
}

/** Whether a device is in the rollout, at this stage or a later one. @param running counter of the release that it runs, if it is known */
function isFor(rollout: Rollout, assignment: Assignment, running: number | undefined): boolean {
  const bootedCounter = running ?? rollout.match.fromCounter?.min ?? 0;
  return eligibilityOf(rollout, { assignment, bootedCounter }) !== 'noMatch';
}

/** The release that most devices run whose reports haven't told: that of the newest completed rollout. */
function baselineOf({ rollouts }: RolloutsFile): number | undefined {
  return rollouts.findLast(({ state }) => state === 'completed')?.release.counter;
}
