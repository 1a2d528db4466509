import { SitecastError } from '@sitecast/shared/errors';
import type { Repository } from '../repository/repository.ts';
import { belowFloor } from './checks.ts';
import type { RolloutRecord } from './record.ts';
import { findRelease } from './releases.ts';

/** A release that a rollout is to lead back to. */
export interface ReturnTarget {
  release: { counter: number; version: string };
  /** Hardware that the rollout is for and this release isn't: such devices stay where they are, and say so. */
  unfit: string[];
}

/**
 * What devices can be told to go back to: a published release, older than the rollout's and not below the floor.
 * @throws SITECAST_RELEASE_UNKNOWN (notFound), SITECAST_ROLLBACK_TARGET, SITECAST_HARDWARE_UNFIT (badInput),
 * SITECAST_RELEASE_BELOW_FLOOR (conflict)
 */
export async function findReturnTarget(
  deps: { repository: Repository },
  { product, rollout }: RolloutRecord,
  version: string,
): Promise<ReturnTarget> {
  const { manifest, product: signed } = await findRelease(deps, product, { version });
  const { counter, hardware } = manifest;
  if (counter >= rollout.release.counter) throw notOlder(version, rollout.release.version);
  if (counter < signed.floor.counter) throw belowFloor(signed, manifest);
  const wanted = rollout.match.hardware ?? hardware;
  const unfit = wanted.filter(name => !hardware.includes(name));
  if (unfit.length === wanted.length) {
    throw new SitecastError(
      'badInput',
      'SITECAST_HARDWARE_UNFIT',
      `${product} ${version} isn't for the hardware ${unfit.join(', ')}: no device could go back to it`,
      { data: { unfit, hardware } },
    );
  }
  return { release: { counter, version }, unfit };
}

function notOlder(version: string, from: string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_ROLLBACK_TARGET',
    `${version} isn't older than ${from}: going back leads to an older release`,
    { hint: 'To go on to another release, abort this rollout and start one of that release.' },
  );
}
