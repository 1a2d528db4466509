import type { OperatorAct, RollbackProgress, RolloutPreview } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { plural } from '@sitecast/shared/text';
import type { Rollout, RolloutsFile } from '@sitecast/shared/fleet';
import type { Repository } from '../repository/repository.ts';
import type { CohortStore, Recount } from './cohort-store.ts';
import { CohortTracker } from './controller/cohort-tracker.ts';
import { decide } from './controller/decide.ts';
import type { Decided } from './controller/effects.ts';
import { actsFrom, isEnded, type OperatorRequest } from './controller/operate.ts';
import { isLastStage, type RolloutStats } from './controller/state.ts';
import { nextAttempt } from './earlier-rollouts.ts';
import { type SignedRollouts, supersedingOf } from './published.ts';
import type { RolloutRecord } from './record.ts';
import { findReturnTarget, type ReturnTarget } from './releases.ts';

/** The stats of an ended rollout: devices aren't counted any more. */
export const NO_STATS: RolloutStats = new CohortTracker().stats(0);

interface ActDeps {
  repository: Repository;
  signed: SignedRollouts;
  store: Pick<CohortStore, 'records' | 'recount' | 'stats'>;
  now: () => number;
}

interface ConsideredAct {
  /** The state is the same if nothing would change. */
  decided: Decided;
  stats: RolloutStats;
  returnTarget: ReturnTarget | undefined;
  /** For an ended rollout: devices that run its release, but not because of the rollout. */
  others: number;
  /** For an ended rollout: ids of the devices that it concerns from then on. */
  reopenedFor: readonly string[] | undefined;
}

/**
 * What an operator's act would lead to, if it isn't refused.
 * @param to label of the release that a rollback leads to
 * @throws what `decide`, `findReturnTarget`, `refuseUnlisted` and `refuseSuperseded` throw, and why the origin can't sign;
 * SITECAST_NOTHING_TO_ROLL_BACK for an ended rollout that would not lead any device back
 */
export async function considerAct(
  deps: ActDeps,
  record: RolloutRecord,
  request: Omit<OperatorRequest, 'rollbackTo'>,
  to?: string,
): Promise<ConsideredAct> {
  const { store, signed, repository } = deps;
  const returnTarget = to === undefined ? undefined : await findReturnTarget(deps, record, to);
  const isReopening = request.act === 'rollback' && isEnded(record.controller.phase);
  const {
    stats,
    others = 0,
    ids,
  } = isReopening ? await store.recount(record) : await standing(store, record);
  const event = {
    type: 'operator' as const,
    stats,
    ...request,
    rollbackTo: returnTarget?.release,
    attempt: nextAttempt(store, record),
  };
  const decided = decide(record.controller, event, deps.now());
  if (decided.state !== record.controller) {
    const file = await signed.file(record.product);
    refuseUnlisted(record, file);
    if (isReopening) refuseSuperseded(record, file);
    if (ids?.length === 0) throw nobodyHasIt(record);
    repository.demandRolloutsSigner();
  }
  return { decided, stats, returnTarget, others, reopenedFor: ids };
}

/** Of a rollout as it stands, without a recount. */
async function standing(
  store: ActDeps['store'],
  { rollout: { id } }: RolloutRecord,
): Promise<Partial<Recount> & Pick<Recount, 'stats'>> {
  return { stats: (await store.stats(id)) ?? NO_STATS };
}

/** The acts that would change a rollout now. */
export async function possibleActs(
  { signed, store }: Pick<ActDeps, 'signed' | 'store'>,
  record: RolloutRecord,
): Promise<OperatorAct[]> {
  const { plan, stage, phase } = record.controller;
  // While the signed file is damaged, the rollout can only be viewed.
  const file = await signed.file(record.product).catch(undefinedIfKnown);
  const isListed = file?.rollouts.some(({ id }) => id === record.rollout.id);
  if (!file || !isListed) return [];
  const canRollBack = !isEnded(phase) || (await canReopen(store, record, file));
  return actsFrom(phase).filter(
    act => !(act === 'advance' && isLastStage(plan, stage)) && (act !== 'rollback' || canRollBack),
  );
}

/** Whether a rollback of an ended rollout leads any device back. */
async function canReopen(
  store: ActDeps['store'],
  record: RolloutRecord,
  file: RolloutsFile,
): Promise<boolean> {
  return supersedingOf(record, file) === undefined && (await store.recount(record)).ids.length > 0;
}

function undefinedIfKnown(error: unknown): undefined {
  if (!(error instanceof SitecastError)) throw error;
}

/** The status of devices that an act may affect. */
interface Touchable {
  stats: RolloutStats;
  /** Undefined for an ended rollout: `stats` has all devices then. */
  back: RollbackProgress | undefined;
  /** Of an ended rollout: devices that run its release, but not by it. Those that knew of it obey, where they are told where to go. */
  others: number;
  /** How many devices come in with the next stage. */
  joining: number;
  /** The number that a retry leads to. */
  nextAttempt: number;
  /** On how many devices the release that a rollback leads to has failed. */
  failedThere: number;
}

/**
 * What an act would do, before it is done.
 * @param returnTarget of a rollback to a chosen release
 */
export function previewOf(
  { rollout, controller }: RolloutRecord,
  act: OperatorAct,
  { stats, back, others, joining, nextAttempt, failedThere }: Touchable,
  returnTarget?: ReturnTarget,
): RolloutPreview {
  const { failed, silent, succeeded, running, waiting, pending, blocked } = stats;
  const open = running + waiting + pending;
  // Latecomers, outside of the cohort, roll back as well.
  const having = succeeded + running + (back?.lateLeft ?? 0);
  const isRollingBack = rollout.state === 'rollingBack';
  const touched: Record<
    OperatorAct,
    () => Pick<RolloutPreview, 'touches' | 'what' | 'target' | 'rollbackTo'>
  > = {
    pause: () => ({ touches: open, what: 'those that have not ended it yet wait' }),
    resume: () => ({ touches: open, what: 'those that have not ended it yet go on' }),
    complete: () => ({ touches: open, what: 'those that have not ended it yet get it as latecomers do' }),
    abort: () =>
      isRollingBack
        ? { touches: back?.left ?? having, what: 'those that are not back yet stay with the release' }
        : { touches: open, what: 'those that have not activated it yet leave it alone' },
    rollback: () => ({
      // Devices that couldn't go back to the release they came from may be able to go to the chosen one.
      touches:
        (isRollingBack ? (back?.left ?? having) : having) +
        (returnTarget && isRollingBack ? (back?.stuck ?? blocked) : 0) +
        (returnTarget ? others : 0),
      what: `those that have it, or are on the way, go back${returnTarget ? targetText(returnTarget, failedThere) : ''}`,
      ...(returnTarget && { rollbackTo: returnTarget.release }),
    }),
    advance: () => ({
      touches: joining,
      what: 'the next stage lets them in',
      target: controller.stage + 1,
    }),
    retry: () => ({
      touches: failed + blocked + open,
      what: 'those that do not run the release try it (again)',
      target: nextAttempt,
    }),
  };
  return { act, failed, silent, ...touched[act]() };
}

function targetText({ release, unfit }: ReturnTarget, failedThere: number): string {
  const but = unfit.length === 0 ? '' : `, but for hardware ${unfit.join(', ')}, which it isn't made for`;
  const failed = failedThere === 0 ? '' : `, which failed on ${plural(failedThere, 'device')} before`;
  return ` to ${release.version}${failed}${but}`;
}

/** Refuses a change of a rollout that the signed file no longer lists: devices don't know it any more. @throws SITECAST_ROLLOUT_ENDED */
export function refuseUnlisted({ product, rollout }: RolloutRecord, { rollouts }: RolloutsFile): void {
  const { id, state } = rollout;
  if (rollouts.some(listed => listed.id === id)) return;
  throw new SitecastError(
    'conflict',
    'SITECAST_ROLLOUT_ENDED',
    `rollout ${id} is ${state}, and so long ago that devices know it no more`,
    {
      hint: `A rollout of an older release leads back: \`sitecast rollout start ${product} VERSION --allow-downgrade\`.`,
      data: { rollout: id, state },
    },
  );
}

/**
 * The error if no device has the release from this rollout. Devices that had it before, or that have another one by now, would not obey, so
 * the rollback would never end.
 */
function nobodyHasIt({ product, rollout: { id, release, state } }: RolloutRecord): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_NOTHING_TO_ROLL_BACK',
    `rollout ${id} is ${state}, and no device has ${release.version} by it: nobody could go back`,
    {
      hint: `A rollout of an older release leads all that have it back: \`sitecast rollout start ${product} VERSION --allow-downgrade\`.`,
      data: { rollout: id, release, state },
    },
  );
}

/** @throws SITECAST_ROLLOUT_SUPERSEDED */
function refuseSuperseded(record: RolloutRecord, file: RolloutsFile): void {
  const newer = supersedingOf(record, file);
  if (!newer) return;
  const { product } = record;
  const { id, state, release } = newer;
  const back = `\`sitecast rollout rollback ${id}\` leads devices back from ${release.version}, with --to VERSION also further than one release`;
  const end = `\`sitecast rollout abort ${id}\``;
  const hints: Record<Rollout['state'], string> = {
    completed: `${back}.`,
    rollingBack: `End that first: ${end}.`,
    active: `${back}; ${end} ends it first.`,
    paused: `${back}; ${end} ends it first.`,
    aborted: '',
  };
  throw new SitecastError(
    'conflict',
    'SITECAST_ROLLOUT_SUPERSEDED',
    `rollout ${id} of ${product} ${release.version} came after it, is ${state}, and could reach the same devices`,
    { hint: hints[state], data: { rollout: id, release, state } },
  );
}
