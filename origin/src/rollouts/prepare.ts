import { randomBytes } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import { MAX_CANARIES, type Rollout, type RolloutsFile, rankOf } from '@sitecast/shared/fleet';
import type { Member } from '../fleet/member.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Repository } from '../repository/repository.ts';
import { belowFloor, matchFor, overlapping, overlaps, refuseDowngrade } from './checks.ts';
import { freeze, NOBODY } from './controller/cohort.ts';
import { type ControllerState, newControllerState } from './controller/state.ts';
import { type Match, reachedBy } from './match.ts';
import { findRelease } from './releases.ts';
import { refuseUnknownNames } from './unknown-names.ts';
import { invalid, planFor, refuseLargeStart, termsFor, type WantedRollout } from './wanted.ts';

interface PrepareDeps {
  repository: Repository;
  registry: Registry;
  now: () => number;
}

/** A rollout as it would begin. */
export interface PreparedRollout {
  rollout: Rollout;
  controller: ControllerState;
  /** Ids of those in the first stage, and of all that it's for now. */
  members: string[];
  candidates: string[];
  /** Those that just soak in their last stage, and could reach the same devices: they're completed when this one begins. */
  superseded: Rollout[];
  /** Of a dry run: a rollout that has to end before this one can be started. */
  blockedBy?: Rollout;
}

/**
 * Everything about a rollout that can be known before it is published.
 * @param file what is signed of the product so far
 * @param isDryRun a rollout that is under way is told then, and refuses nothing
 * @param makesWay whether a rollout that goes on has nothing left to do but to soak
 * @throws the codes of docs/ERRORS.md under "Rollouts"
 */
export async function prepareRollout(
  deps: PrepareDeps,
  wanted: WantedRollout,
  file: RolloutsFile,
  { isDryRun, makesWay }: { isDryRun: boolean; makesWay: (rolloutId: string) => boolean },
): Promise<PreparedRollout> {
  const { registry } = deps;
  const nowMs = deps.now();
  const { product } = wanted;
  const plan = planFor(wanted);
  const terms = termsFor(wanted);
  const { manifest, manifestSha256, product: signed } = await findRelease(deps, product, wanted.release);
  if (manifest.counter < signed.floor.counter) throw belowFloor(signed, manifest);
  const match = await withOrigins(deps, wanted, matchFor(wanted, manifest.hardware));
  if (!wanted.mayBeUnknown) refuseUnknownNames(wanted, registry);
  const meeting = overlapping(match, file);
  const blockedBy = meeting.find(({ id }) => !makesWay(id));
  if (blockedBy && !isDryRun) throw overlaps(product, blockedBy);
  const superseded = meeting.filter(({ id }) => makesWay(id));
  const everybody: Rollout = {
    id: wanted.id ?? randomBytes(8).toString('hex'),
    release: { counter: manifest.counter, version: manifest.version, manifestSha256 },
    state: 'active',
    match,
    cohort: { below: null },
    ...terms,
    attempt: 1,
    createdAt: new Date(nowMs).toISOString(),
  };
  if (!wanted.mayDowngrade)
    refuseDowngrade(product, everybody, [...file.rollouts, ...superseded.map(asCompleted)], registry);
  const reached = [...reachedBy(everybody, product, registry)];
  refuseLargeStart(wanted, plan, reached.length);
  const isStaged = plan.stages.length > 1;
  if (isStaged && reached.length === 0) throw nobodyMatches();
  const canaries = canariesFor(wanted, everybody.id, reached);
  const before = { below: NOBODY, ...(canaries.length > 0 && { canaries }) };
  const candidates = reached.map(({ id }) => id);
  const { cohort, members } = freeze(
    everybody.id,
    candidates,
    plan.stages[0]?.basisPoints ?? 0,
    before,
    nowMs,
  );
  return {
    rollout: { ...everybody, cohort },
    controller: newControllerState(plan, nowMs),
    members,
    candidates,
    superseded,
    ...(blockedBy && { blockedBy }),
  };
}

export const asCompleted = (rollout: Rollout): Rollout => ({ ...rollout, state: 'completed' });

/** Versions are labels: what orders them are counters. */
async function withOrigins(deps: PrepareDeps, wanted: WantedRollout, match: Match): Promise<Match> {
  const { fromVersion } = wanted.match;
  if (!fromVersion) return match;
  const counterOf = async (version: string): Promise<number> =>
    (await findRelease(deps, wanted.product, { version })).manifest.counter;
  const min = fromVersion.min === undefined ? 0 : await counterOf(fromVersion.min);
  const max = fromVersion.max === undefined ? Number.MAX_SAFE_INTEGER : await counterOf(fromVersion.max);
  if (min > max) throw invalid(`${fromVersion.min} is newer than ${fromVersion.max}`);
  return { ...match, fromCounter: { min, max } };
}

function canariesFor({ canaries }: WantedRollout, rolloutId: string, reached: readonly Member[]): string[] {
  if (!canaries) return [];
  const known = new Set(reached.map(({ id }) => id));
  const unfit = canaries.ids.filter(id => !known.has(id));
  if (unfit.length > 0)
    throw invalid('a canary must be an enrolled device that the rollout is for', {
      unfit: unfit.slice(0, 100),
    });
  const chosen = new Set([...canaries.ids, ...(canaries.isPerSite ? onePerSite(rolloutId, reached) : [])]);
  if (chosen.size > MAX_CANARIES)
    throw invalid(`${chosen.size} canaries are more than the ${MAX_CANARIES} that can be named`);
  return [...chosen].sort();
}

/** Of each site the device that is first in the rollout's order. */
function onePerSite(rolloutId: string, reached: readonly Member[]): string[] {
  const first = new Map<string, { id: string; rank: string }>();
  for (const { id, site } of reached) {
    const rank = rankOf(rolloutId, id);
    const known = first.get(site);
    if (!known || rank < known.rank) first.set(site, { id, rank });
  }
  return [...first.values()].map(({ id }) => id);
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

/** Which devices come in with each stage, if all goes on as it is now. */
export function stagesAhead({ rollout, controller, candidates }: PreparedRollout): { ids: string[] }[] {
  const known = new Set<string>();
  let cohort: Rollout['cohort'] = {
    below: NOBODY,
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
