import type { OperatorAct } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import type { Repository } from '../repository/repository.ts';
import { refuseSuperseded, refuseUnlisted, supersedingOf } from './checks.ts';
import { decide } from './controller/decide.ts';
import type { Decided } from './controller/effects.ts';
import { Ledger } from './controller/ledger.ts';
import { actsFrom, isEnded, type OperatorWish } from './controller/operate.ts';
import { isLastStage } from './controller/plan.ts';
import type { Figures } from './controller/state.ts';
import type { RolloutRecord } from './record.ts';
import { findReturnTarget, type ReturnTarget } from './return-target.ts';
import type { SignedRollouts } from './signed.ts';
import type { Standings } from './standings.ts';
import type { Tallies } from './tallies.ts';

/** Of one that has ended nothing is counted any more. */
export const NO_FIGURES = new Ledger().figures(0);

interface WishDeps {
  repository: Repository;
  signed: SignedRollouts;
  standings: Standings;
  tallies: Tallies;
  now: () => number;
}

interface ConsideredWish {
  /** With the same state where nothing would change. */
  decided: Decided;
  figures: Figures;
  goal: ReturnTarget | undefined;
  /** Of a rollout that had ended: ids of those that it deals with from then on. */
  reopenedFor: readonly string[] | undefined;
}

/**
 * What comes of an operator's wish, if nothing refuses it.
 * @param to label of the release that a rollback is to lead to
 * @throws what `decide`, `findReturnTarget`, `refuseUnlisted` and `refuseSuperseded` throw, and what keeps the origin from signing
 */
export async function considerWish(
  deps: WishDeps,
  record: RolloutRecord,
  wish: Omit<OperatorWish, 'rollbackTo'>,
  to?: string,
): Promise<ConsideredWish> {
  const { standings, tallies, signed, repository } = deps;
  const { id } = record.rollout;
  const goal = to === undefined ? undefined : await findReturnTarget(deps, record, to);
  const isReopening = wish.act === 'rollback' && isEnded(record.controller.phase);
  const recount = isReopening ? standings.recount(record, await tallies.outcomes(id)) : undefined;
  const figures = recount?.figures ?? standings.figures(record) ?? NO_FIGURES;
  const event = { type: 'operator' as const, figures, ...wish, rollbackTo: goal?.release };
  const decided = decide(record.controller, event, deps.now());
  if (decided.state !== record.controller) {
    const file = await signed.file(record.product);
    refuseUnlisted(record, file);
    if (isReopening) refuseSuperseded(record, file);
    repository.demandRolloutsSigner();
  }
  return { decided, figures, goal, reopenedFor: recount?.ids };
}

/** What an operator can do with a rollout now; what just says once more where it is isn't among it. */
export async function possibleActs(
  { signed }: Pick<WishDeps, 'signed'>,
  record: RolloutRecord,
): Promise<OperatorAct[]> {
  const { plan, stage, phase } = record.controller;
  // While the signed file is damaged nothing can be done, but looked.
  const file = await signed.file(record.product).catch(undefinedIfKnown);
  const isListed = file?.rollouts.some(({ id }) => id === record.rollout.id);
  if (!file || !isListed) return [];
  const canReturn = !isEnded(phase) || supersedingOf(record, file) === undefined;
  return actsFrom(phase).filter(
    act => !(act === 'advance' && isLastStage(plan, stage)) && (act !== 'rollback' || canReturn),
  );
}

function undefinedIfKnown(error: unknown): undefined {
  if (!(error instanceof SitecastError)) throw error;
}
