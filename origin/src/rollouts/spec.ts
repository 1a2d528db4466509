import { type RolloutPlan, rolloutPlanSchema, type RolloutSpec, type Stage } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { parseWindow, type Rollout } from '@sitecast/shared/fleet';
import { z } from 'zod';
import { devicesIn } from './controller/cohort.ts';
import { ALL_AT_ONCE, PLAN_DEFAULTS } from './controller/state.ts';

// From what an operator orders to the plan of the controller and the terms of the signed rollout. Absent fields get their defaults.

/** A larger share in the first stage needs the operator's explicit consent. */
const MAX_FIRST_BASIS_POINTS = 1000;
const DEFAULT_OFFLINE_FOR_MS = 24 * 3_600_000;
const DEFAULT_MAX_DOWN_BASIS_POINTS = 2500;

/** @throws SITECAST_ROLLOUT_INVALID (badInput) */
export function planFor(spec: RolloutSpec): RolloutPlan {
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
export function refuseLargeStart(
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

type Terms = Pick<Rollout, 'window' | 'download' | 'notBefore' | 'offlineForMs' | 'maxDownBasisPoints'>;

/** When devices may download and activate, and how many at once. @throws SITECAST_WINDOW_INVALID, SITECAST_ROLLOUT_INVALID (badInput) */
export function termsFor(spec: RolloutSpec): Terms {
  const { window, download, notBefore, offlineForMs, maxDownBasisPoints } = spec;
  if (window !== undefined) parseWindow(window);
  if (download === 'window' && window === undefined)
    throw invalid('downloads are to wait for the window, and there is none');
  return {
    ...(window !== undefined && { window }),
    ...(download !== undefined && { download }),
    ...(notBefore !== undefined && { notBefore }),
    offlineForMs: offlineForMs ?? DEFAULT_OFFLINE_FOR_MS,
    maxDownBasisPoints: maxDownBasisPoints ?? DEFAULT_MAX_DOWN_BASIS_POINTS,
  };
}

export function invalid(reason: string, data: Record<string, unknown> = {}): SitecastError {
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
