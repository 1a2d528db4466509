import { randomBytes } from 'node:crypto';
import type { RolloutSpec } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { MAX_CANARIES, type Rollout, type RolloutsFile, rankOf } from '@sitecast/shared/fleet';
import type { Member } from '../fleet/member.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Repository } from '../repository/repository.ts';
import { freeze, NO_DEVICE } from './controller/cohort.ts';
import { type ControllerState, newControllerState } from './controller/state.ts';
import { bootedCounter, canOverlap, type Match, nearestOf, reachedBy, refuseUnknownNames } from './match.ts';
import { asCompleted } from './published.ts';
import { IS_UNDER_WAY } from './record.ts';
import { belowFloor, findRelease } from './releases.ts';
import { invalid, planFor, refuseLargeStart, termsFor } from './spec.ts';

interface PrepareDeps {
  repository: Repository;
  registry: Registry;
  now: () => number;
}

/** A rollout as it would begin. */
export interface PreparedRollout {
  rollout: Rollout;
  controller: ControllerState;
  /** Ids of the devices in the first stage, and of all devices that match now. */
  members: string[];
  candidates: string[];
  /** Rollouts that only soak in their last stage and could reach the same devices. This rollout's start completes them. */
  superseded: Rollout[];
  /** Of a dry run: a rollout that must end before this one can be started. */
  blockedBy?: Rollout;
}

/**
 * Checks everything about a rollout that can be known before it is published.
 * @param file the signed rollouts of the product so far
 * @param canBeSuperseded whether a rollout under way only soaks in its last stage
 * @throws the codes of docs/ERRORS.md under "Rollouts"; in a dry run a rollout under way refuses nothing
 */
export async function prepareRollout(
  deps: PrepareDeps,
  spec: RolloutSpec,
  file: RolloutsFile,
  canBeSuperseded: (rolloutId: string) => Promise<boolean>,
): Promise<PreparedRollout> {
  const { registry } = deps;
  const nowMs = deps.now();
  const { product } = spec;
  const plan = planFor(spec);
  const terms = termsFor(spec);
  const { manifest, manifestSha256, product: signed } = await findRelease(deps, product, spec);
  if (manifest.counter < signed.floor.counter) throw belowFloor(signed, manifest);
  const match = await withOrigins(deps, spec, matchFor(spec, manifest.hardware));
  if (!spec.allowUnknown) refuseUnknownNames(spec, registry);
  const overlapping = file.rollouts.filter(
    rollout => IS_UNDER_WAY.has(rollout.state) && canOverlap(rollout.match, match),
  );
  const superseded = await those(overlapping, ({ id }) => canBeSuperseded(id));
  const blockedBy = overlapping.find(rollout => !superseded.includes(rollout));
  if (blockedBy && !spec.dryRun) throw overlaps(product, blockedBy);
  const everyDevice: Rollout = {
    id: spec.id ?? randomBytes(8).toString('hex'),
    release: { counter: manifest.counter, version: manifest.version, manifestSha256 },
    state: 'active',
    match,
    cohort: { below: null },
    ...terms,
    attempt: 1,
    createdAt: new Date(nowMs).toISOString(),
  };
  if (!spec.allowDowngrade)
    refuseDowngrade(product, everyDevice, [...file.rollouts, ...superseded.map(asCompleted)], registry);
  const reached = [...reachedBy(everyDevice, product, registry)];
  refuseLargeStart(spec, plan, reached.length);
  const isStaged = plan.stages.length > 1;
  if (isStaged && reached.length === 0) throw nobodyMatches();
  const canaries = canariesFor(spec, everyDevice.id, reached);
  const before = { below: NO_DEVICE, ...(canaries.length > 0 && { canaries }) };
  const candidates = reached.map(({ id }) => id);
  const share = plan.stages[0]?.basisPoints ?? 0;
  const { cohort, members } = freeze(everyDevice.id, candidates, share, before, nowMs);
  return {
    rollout: { ...everyDevice, cohort },
    controller: newControllerState(plan, nowMs),
    members,
    candidates,
    superseded,
    ...(blockedBy && { blockedBy }),
  };
}

/** The devices that come in with each stage, if the fleet stays as it is now. */
export function stagesAhead({ rollout, controller, candidates }: PreparedRollout): { ids: string[] }[] {
  const known = new Set<string>();
  let cohort: Rollout['cohort'] = {
    below: NO_DEVICE,
    ...(rollout.cohort.canaries && { canaries: rollout.cohort.canaries }),
  };
  return controller.plan.stages.map(({ basisPoints }) => {
    const frozen = freeze(rollout.id, candidates, basisPoints, cohort, Date.parse(rollout.createdAt));
    cohort = frozen.cohort;
    const ids = frozen.members.filter(id => !known.has(id));
    for (const id of ids) known.add(id);
    return { ids };
  });
}

async function those(
  rollouts: readonly Rollout[],
  isMeant: (rollout: Rollout) => Promise<boolean>,
): Promise<Rollout[]> {
  const found: Rollout[] = [];
  for (const rollout of rollouts) if (await isMeant(rollout)) found.push(rollout);
  return found;
}

/** Without named hardware a rollout is for all hardware of its release. */
function matchFor({ match }: RolloutSpec, hardware: readonly string[]): Match {
  const unfit = match.hardware?.filter(name => !hardware.includes(name)) ?? [];
  const [first] = unfit;
  if (first !== undefined) {
    const nearest = nearestOf(first, hardware);
    throw new SitecastError(
      'badInput',
      'SITECAST_HARDWARE_UNFIT',
      `the release isn't for the hardware ${unfit.join(', ')}: it is for ${hardware.join(', ')}`,
      { data: { unfit, hardware, ...(nearest !== undefined && { nearest }) } },
    );
  }
  const { sites, tags } = match;
  return {
    hardware: match.hardware ?? [...hardware],
    ...(sites && { sites }),
    ...(tags && Object.keys(tags).length > 0 && { tags }),
  };
}

/** Versions are labels. Their counters give the order. */
async function withOrigins(deps: PrepareDeps, spec: RolloutSpec, match: Match): Promise<Match> {
  const { fromVersion } = spec.match;
  if (!fromVersion) return match;
  const counterOf = async (version: string): Promise<number> =>
    (await findRelease(deps, spec.product, { version })).manifest.counter;
  const min = fromVersion.min === undefined ? 0 : await counterOf(fromVersion.min);
  const max = fromVersion.max === undefined ? Number.MAX_SAFE_INTEGER : await counterOf(fromVersion.max);
  if (min > max) throw invalid(`${fromVersion.min} is newer than ${fromVersion.max}`);
  return { ...match, fromCounter: { min, max } };
}

function canariesFor({ canaries }: RolloutSpec, rolloutId: string, reached: readonly Member[]): string[] {
  if (!canaries) return [];
  const known = new Set(reached.map(({ id }) => id));
  const unfit = canaries.ids.filter(id => !known.has(id));
  if (unfit.length > 0)
    throw invalid('a canary must be an enrolled device that the rollout is for', {
      unfit: unfit.slice(0, 100),
    });
  const chosen = new Set([...canaries.ids, ...(canaries.perSite ? onePerSite(rolloutId, reached) : [])]);
  if (chosen.size > MAX_CANARIES)
    throw invalid(`${chosen.size} canaries are more than the ${MAX_CANARIES} that can be named`);
  return [...chosen].sort();
}

/** Of each site the device with the lowest rank. */
function onePerSite(rolloutId: string, reached: readonly Member[]): string[] {
  const first = new Map<string, { id: string; rank: string }>();
  for (const { id, site } of reached) {
    const rank = rankOf(rolloutId, id);
    const known = first.get(site);
    if (!known || rank < known.rank) first.set(site, { id, rank });
  }
  return [...first.values()].map(({ id }) => id);
}

function refuseDowngrade(
  product: string,
  rollout: Rollout,
  others: readonly Rollout[],
  registry: Registry,
): void {
  const { counter, version } = rollout.release;
  let newest = 0;
  let devices = 0;
  for (const { id } of reachedBy(rollout, product, registry)) {
    const booted = bootedCounter(registry.status(id));
    newest = Math.max(newest, booted);
    if (booted > counter) devices += 1;
  }
  for (const other of others) {
    if (other.state === 'completed' && canOverlap(other.match, rollout.match))
      newest = Math.max(newest, other.release.counter);
  }
  if (counter >= newest) return;
  throw new SitecastError(
    'conflict',
    'SITECAST_DOWNGRADE_REFUSED',
    `${product} ${version} (counter ${counter}) is older than ${newest}, which these devices run or are to run`,
    {
      hint: 'If going back is meant: --allow-downgrade.',
      data: { product, counter, newest, devices },
    },
  );
}

function overlaps(product: string, other: Rollout): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_ROLLOUT_OVERLAPS',
    `rollout ${other.id} of ${product} ${other.release.version} is ${other.state} and could reach the same devices`,
    {
      hint: endingHint(other),
      data: { rollout: other.id, release: other.release, state: other.state },
    },
  );
}

/** A rollback can only be aborted, not completed. */
function endingHint({ id, state }: Rollout): string {
  const orComplete =
    state === 'rollingBack'
      ? ''
      : `, or \`sitecast rollout complete ${id}\` if what it reached is good enough`;
  return `End it first: \`sitecast rollout abort ${id}\`${orComplete}.`;
}

function nobodyMatches(): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_NOBODY_MATCHES',
    'no enrolled device matches: there is nothing to divide into stages',
    {
      hint: 'Check hardware, sites and tags; or say --all-at-once, and it waits for devices that come.',
    },
  );
}
