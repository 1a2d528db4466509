import type { Repository } from '../repository/repository.ts';
import type { Files } from '../storage/files.ts';
import { IS_GOING_ON, refuseSuperseded, refuseUnlisted } from './checks.ts';
import { decide } from './controller/decide.ts';
import type { Decided } from './controller/effects.ts';
import { Ledger } from './controller/ledger.ts';
import type { OperatorWish } from './controller/operate.ts';
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
  files: Files;
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
  const { id, state } = record.rollout;
  const goal = to === undefined ? undefined : await findReturnTarget(deps, record, to);
  const isReopening = wish.act === 'rollback' && !IS_GOING_ON.has(state);
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
