import { randomBytes } from 'node:crypto';
import { type RolloutPlan, rolloutPlanSchema, type RolloutSpec, type Stage } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { MAX_CANARIES, parseWindow, type Rollout, type RolloutsFile, rankOf } from '@sitecast/shared/fleet';
import { z } from 'zod';
import type { Member } from '../fleet/member.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Repository } from '../repository/repository.ts';
import { devicesIn, freeze, NO_DEVICE } from './controller/cohort.ts';
import { ALL_AT_ONCE, type ControllerState, newControllerState, PLAN_DEFAULTS } from './controller/state.ts';
import { bootedCounter, canOverlap, type Match, nearestOf, reachedBy, refuseUnknownNames } from './match.ts';
import { asCompleted } from './published.ts';
import { IS_UNDER_WAY } from './record.ts';
import { belowFloor, findRelease } from './releases.ts';

/** A larger share in the first stage needs the operator's explicit consent. */
const MAX_FIRST_BASIS_POINTS = 1000;
/** How long the origin makes deltas for a rollout before devices that pay for bytes stop waiting for them. */
const DELTAS_WITHIN_MS = 2 * 3_600_000;
const DEFAULT_OFFLINE_FOR_MS = 24 * 3_600_000;
const DEFAULT_MAX_DOWN_BASIS_POINTS = 2500;

interface PrepareDeps {
  repository: Repository;
  registry: Registry;
  /** Whether devices should wait for deltas to a release, for a rollout that was started at `sinceMs` (since 1970). */
  awaitsDeltas?: (product: string, counter: number, sinceMs: number) => boolean;
  now: () => number;
}

/** A rollout as it would begin. */
export interface PreparedRollout {
  rollout: Rollout;
  controller: ControllerState;
  /** Ids of the devices in the first stage, and of all devices that match now. */
  members: string[];
  candidates: string[];
  /** Rollouts in their last soak that could reach the same devices. The start of this rollout completes them. */
  superseded: Rollout[];
  /** In a dry run: a rollout that must end before this one can be started. */
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
    rollout: { ...everyDevice, ...deltasTerm(deps, product, manifest.counter), cohort },
    controller: newControllerState(plan, nowMs),
    members,
    candidates,
    superseded,
    ...(blockedBy && { blockedBy }),
  };
}

/** Until when devices should wait for deltas, if any are to come. */
function deltasTerm(
  { awaitsDeltas, now }: PrepareDeps,
  product: string,
  to: number,
): Pick<Rollout, 'deltasBy'> {
  const nowMs = now();
  if (awaitsDeltas?.(product, to, nowMs) !== true) return {};
  return { deltasBy: new Date(nowMs + DELTAS_WITHIN_MS).toISOString() };
}

/** @throws SITECAST_ROLLOUT_INVALID (badInput) */
function planFor(spec: RolloutSpec): RolloutPlan {
  const stages = stagesFor(spec);
  checkStages(stages, spec);
  const {
    maxFailuresBasisPoints = PLAN_DEFAULTS.maxFailuresBasisPoints,
    minFailures = PLAN_DEFAULTS.minFailures,
    onFailure = PLAN_DEFAULTS.onFailure,
    silentAfterMs = PLAN_DEFAULTS.silentAfterMs,
  } = spec;
  const plan = { maxFailuresBasisPoints, minFailures, onFailure, silentAfterMs };
  const parsed = rolloutPlanSchema.safeParse({ ...plan, lastStageSoaks: true, stages });
  if (parsed.success) return parsed.data;
  throw invalid(z.prettifyError(parsed.error));
}

function checkStages(stages: readonly Stage[], spec: RolloutSpec): void {
  const shares = stages.map(({ basisPoints }) => basisPoints);
  if (shares.some((share, at) => at > 0 && share <= (shares[at - 1] ?? 0)))
    throw invalid('each stage must be larger than the one before');
  if (shares.at(-1) !== 10_000)
    throw invalid('the last stage must be 100 %: pause a rollout that is to stop before');
  const [first = 0] = shares;
  if (first === 0 && !hasCanaries(spec)) throw invalid('a stage of 0 % is for canaries, and none are named');
}

/**
 * Refuses a first stage with more than a tenth of the devices, unless the operator consents. A tenth is counted in devices, rounded
 * up, as stages are: a tenth of five devices is one. A rollout of a single stage needs consent in any case, because devices that
 * enrol later get it at once.
 * @param devices number of devices that the rollout matches
 * @throws SITECAST_ALL_AT_ONCE_NEEDED (badInput)
 */
function refuseLargeStart(
  { allAtOnce }: Pick<RolloutSpec, 'allAtOnce'>,
  { stages }: Pick<RolloutPlan, 'stages'>,
  devices: number,
): void {
  const share = stages[0]?.basisPoints ?? 0;
  if (allAtOnce || share <= MAX_FIRST_BASIS_POINTS) return;
  const reach = devicesIn(share, devices);
  const isSmall = stages.length > 1 && devices > 0 && reach <= devicesIn(MAX_FIRST_BASIS_POINTS, devices);
  if (!isSmall) throw tooManyAtOnce(share, reach, devices);
}

function stagesFor({ stages, allAtOnce, lastSoakMs, ...spec }: RolloutSpec): Stage[] {
  const usual = (allAtOnce ? [ALL_AT_ONCE] : PLAN_DEFAULTS.stages).map(({ basisPoints }) => ({
    basisPoints,
  }));
  const chosen: NonNullable<RolloutSpec['stages']> = stages ?? usual;
  const hasCanaryStage = chosen[0]?.basisPoints === 0;
  const all = hasCanaries(spec) && !hasCanaryStage ? [{ basisPoints: 0 }, ...chosen] : chosen;
  // A single stage means: everywhere now. It soaks only if the spec says so.
  const { soakMs = all.length > 1 ? PLAN_DEFAULTS.soakMs : ALL_AT_ONCE.soakMs } = spec;
  return all.map(({ basisPoints, soakMs: ownMs = soakMs }, at) => ({
    basisPoints,
    soakMs: at === all.length - 1 ? (lastSoakMs ?? ownMs) : ownMs,
  }));
}

function hasCanaries({ canaries }: Pick<RolloutSpec, 'canaries'>): boolean {
  return canaries !== undefined && (canaries.perSite || canaries.ids.length > 0);
}

type Terms = Pick<
  Rollout,
  'window' | 'download' | 'notBefore' | 'offlineForMs' | 'maxDownBasisPoints' | 'allowWithoutGateway'
>;

/** When devices may download and activate, and how many at once. @throws SITECAST_WINDOW_INVALID, SITECAST_ROLLOUT_INVALID (badInput) */
function termsFor(spec: RolloutSpec): Terms {
  const { window, download, notBefore, offlineForMs, maxDownBasisPoints, allowWithoutGateway } = spec;
  if (window !== undefined) parseWindow(window);
  if (download === 'window' && window === undefined)
    throw invalid('downloads are to wait for the window, and there is none');
  return {
    ...(window !== undefined && { window }),
    ...(download !== undefined && { download }),
    ...(notBefore !== undefined && { notBefore }),
    offlineForMs: offlineForMs ?? DEFAULT_OFFLINE_FOR_MS,
    maxDownBasisPoints: maxDownBasisPoints ?? DEFAULT_MAX_DOWN_BASIS_POINTS,
    ...(allowWithoutGateway && { allowWithoutGateway }),
  };
}

function invalid(reason: string, data: Record<string, unknown> = {}): SitecastError {
  return new SitecastError('badInput', 'SITECAST_ROLLOUT_INVALID', reason, { data });
}

function tooManyAtOnce(basisPoints: number, reach: number, devices: number): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_ALL_AT_ONCE_NEEDED',
    `the first stage would reach ${basisPoints / 100} % of the devices (${reach} of ${devices}), more than 10 %`,
    {
      hint: 'Begin with a smaller stage or canaries, or say --all-at-once if that is meant.',
      data: { reach, devices },
    },
  );
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
