import { type RolloutPlan, rolloutPlanSchema, type Stage } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { parseWindow, type Rollout } from '@sitecast/shared/fleet';
import { z } from 'zod';
import { devicesIn } from './controller/cohort.ts';
import { ALL_AT_ONCE, PLAN_DEFAULTS } from './controller/plan.ts';
import type { ReleaseName } from './releases.ts';

/** A first stage beyond this share has to be meant. */
const MAX_FIRST_BASIS_POINTS = 1000;
const DEFAULT_OFFLINE_FOR_MS = 24 * 3_600_000;
const DEFAULT_MAX_DOWN_BASIS_POINTS = 2500;

/** What an operator says of a rollout to be started; what is silent has a default. */
export interface WantedRollout {
  product: string;
  release: ReleaseName;
  /** That of a dry run: with it the same devices come first. */
  id?: string | undefined;
  match: {
    hardware?: string[] | undefined;
    sites?: string[] | undefined;
    tags?: Record<string, string> | undefined;
    /** Labels of the releases that devices come from, both included. */
    fromVersion?: { min?: string | undefined; max?: string | undefined } | undefined;
  };
  /** With the canaries' among them if that is to soak differently: 0 basis points. */
  stages?: { basisPoints: number; soakMs?: number | undefined }[] | undefined;
  soakMs?: number | undefined;
  /** Of the last stage, before the rollout is completed. */
  lastSoakMs?: number | undefined;
  canaries?: { ids: string[]; isPerSite: boolean } | undefined;
  limits: { [name in keyof Omit<RolloutPlan, 'stages' | 'lastStageSoaks'>]?: RolloutPlan[name] | undefined };
  terms: {
    window?: string | undefined;
    download?: 'anytime' | 'window' | undefined;
    notBefore?: string | undefined;
    offlineForMs?: number | undefined;
    maxDownBasisPoints?: number | undefined;
  };
  isAllAtOnce: boolean;
  mayDowngrade: boolean;
  /** Sites, hardware and tags may be named that nobody has yet. */
  mayBeUnknown: boolean;
}

/** @throws SITECAST_ROLLOUT_INVALID (badInput) */
export function planFor(wanted: WantedRollout): RolloutPlan {
  const stages = stagesFor(wanted);
  checkStages(stages, wanted);
  const { stages: _stages, soakMs: _soakMs, ...defaults } = PLAN_DEFAULTS;
  const chosen = Object.entries(wanted.limits).filter(([, value]) => value !== undefined);
  const parsed = rolloutPlanSchema.safeParse({ ...defaults, ...Object.fromEntries(chosen), stages });
  if (parsed.success) return parsed.data;
  throw invalid(z.prettifyError(parsed.error));
}

function checkStages(stages: readonly Stage[], wanted: WantedRollout): void {
  const shares = stages.map(({ basisPoints }) => basisPoints);
  if (shares.some((share, at) => at > 0 && share <= (shares[at - 1] ?? 0)))
    throw invalid('each stage must be larger than the one before');
  if (shares.at(-1) !== 10_000)
    throw invalid('the last stage must be 100 %: pause a rollout that is to stop before');
  const [first = 0] = shares;
  if (first === 0 && !hasCanaries(wanted))
    throw invalid('a stage of 0 % is for canaries, and none are named');
}

/**
 * A first stage that reaches more than a tenth of the devices has to be meant. It's counted in devices, as stages are: of five
 * devices a tenth is one, and no stage has fewer. Without stages it has to be meant in any case: those that come later are in at once.
 * @param devices that the rollout is for
 * @throws SITECAST_ALL_AT_ONCE_NEEDED (badInput)
 */
export function refuseLargeStart(
  { isAllAtOnce }: WantedRollout,
  { stages }: Pick<RolloutPlan, 'stages'>,
  devices: number,
): void {
  const share = stages[0]?.basisPoints ?? 0;
  if (isAllAtOnce || share <= MAX_FIRST_BASIS_POINTS) return;
  const reach = devicesIn(share, devices);
  const isSmall = stages.length > 1 && devices > 0 && reach <= devicesIn(MAX_FIRST_BASIS_POINTS, devices);
  if (!isSmall) throw tooManyAtOnce(share, reach, devices);
}

function stagesFor({ stages, isAllAtOnce, lastSoakMs, ...wanted }: WantedRollout): Stage[] {
  const usual = (isAllAtOnce ? [ALL_AT_ONCE] : PLAN_DEFAULTS.stages).map(({ basisPoints }) => ({
    basisPoints,
  }));
  const chosen: NonNullable<WantedRollout['stages']> = stages ?? usual;
  const isNamed = chosen[0]?.basisPoints === 0;
  const all = hasCanaries(wanted) && !isNamed ? [{ basisPoints: 0 }, ...chosen] : chosen;
  // Whoever divides nothing into stages wants it everywhere now: it soaks only if that is said.
  const { soakMs = all.length > 1 ? PLAN_DEFAULTS.soakMs : ALL_AT_ONCE.soakMs } = wanted;
  return all.map(({ basisPoints, soakMs: ownMs = soakMs }, at) => ({
    basisPoints,
    soakMs: at === all.length - 1 ? (lastSoakMs ?? ownMs) : ownMs,
  }));
}

function hasCanaries({ canaries }: Pick<WantedRollout, 'canaries'>): boolean {
  return canaries !== undefined && (canaries.isPerSite || canaries.ids.length > 0);
}

type Terms = Pick<Rollout, 'window' | 'download' | 'notBefore' | 'offlineForMs' | 'maxDownBasisPoints'>;

/** When devices may do what. @throws SITECAST_WINDOW_INVALID, SITECAST_ROLLOUT_INVALID (badInput) */
export function termsFor({ terms }: WantedRollout): Terms {
  const { window, download, notBefore, offlineForMs, maxDownBasisPoints } = terms;
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
