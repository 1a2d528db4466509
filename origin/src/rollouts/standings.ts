import type { RolloutFigures } from '@sitecast/shared/api';
import type { CohortStore } from './cohort-store.ts';
import { figuresOf, soakMsOf } from './controller/state.ts';
import { isUnderWay, type RolloutRecord } from './record.ts';

/** How many ended rollouts are included. */
const MAX_ENDED = 20;

/** The state of a rollout, for monitoring. */
export interface Standing {
  id: string;
  product: string;
  version: string;
  state: RolloutRecord['rollout']['state'];
  /** From 1. */
  stage: number;
  stages: number;
  stageStartedMs: number;
  /** Until the stage has soaked; undefined while it doesn't soak. */
  soakLeftMs: number | undefined;
  /**
   * The share of the cohort that has failed or is silent without an operator's acknowledgement, and the share above which the rollout
   * stops.
   */
  failureRatio: number;
  silenceRatio: number;
  maxFailureRatio: number;
  /** For an ended rollout, its figures at the end; undefined if a crash or an earlier version has left none. */
  figures: RolloutFigures | undefined;
}

/** All rollouts under way, and the last ones that ended. The cost doesn't depend on how many devices there are. @throws SITECAST_STATE_DAMAGED */
export async function standingsOf(store: CohortStore, nowMs: number): Promise<Standing[]> {
  const standings: Standing[] = [];
  let ended = 0;
  for (const record of store.records()) {
    if (!isUnderWay(record)) {
      ended += 1;
      if (ended <= MAX_ENDED) standings.push(standingOf(record, record.figures, nowMs));
      continue;
    }
    const stats = await store.stats(record.rollout.id);
    standings.push(standingOf(record, stats && figuresOf(stats), nowMs));
  }
  return standings;
}

function standingOf(record: RolloutRecord, figures: RolloutFigures | undefined, nowMs: number): Standing {
  const { product, rollout, controller } = record;
  const { plan, stage, stageStartedAt, settledAt, excused } = controller;
  const ofMembers = (count: number, acknowledged: number): number =>
    figures && figures.members > 0 ? Math.max(0, count - acknowledged) / figures.members : 0;
  return {
    id: rollout.id,
    product,
    version: rollout.release.version,
    state: rollout.state,
    stage: stage + 1,
    stages: plan.stages.length,
    stageStartedMs: Date.parse(stageStartedAt),
    soakLeftMs:
      rollout.state === 'active' && settledAt !== undefined
        ? Math.max(0, Date.parse(settledAt) + soakMsOf(plan, stage) - nowMs)
        : undefined,
    failureRatio: ofMembers(figures?.failed ?? 0, excused.failed),
    silenceRatio: ofMembers(figures?.silent ?? 0, excused.silent),
    maxFailureRatio: plan.maxFailuresBasisPoints / 10_000,
    figures,
  };
}
