import type { RolloutSpec, RolloutView } from '@sitecast/shared/api';
import type { RolloutRecord } from '../../rollouts/record.ts';
import type { WantedRollout } from '../../rollouts/wanted.ts';

export function wantedOf(body: RolloutSpec): WantedRollout {
  const { product, version, counter, id, match, stages, soakMs, lastSoakMs, canaries } = body;
  const { maxFailuresBasisPoints, minFailures, onFailure, silentAfterMs } = body;
  const { window, download, notBefore, offlineForMs, maxDownBasisPoints } = body;
  return {
    product,
    release: version === undefined ? { counter: counter ?? 0 } : { version },
    id,
    match,
    stages,
    soakMs,
    lastSoakMs,
    canaries: canaries && { ids: canaries.ids, isPerSite: canaries.perSite },
    limits: { maxFailuresBasisPoints, minFailures, onFailure, silentAfterMs },
    terms: { window, download, notBefore, offlineForMs, maxDownBasisPoints },
    isAllAtOnce: body.allAtOnce,
    mayDowngrade: body.allowDowngrade,
    mayBeUnknown: body.allowUnknown,
  };
}

export function describeRollout(record: RolloutRecord): RolloutView {
  const { product, rollout, startedBy, changes, controller } = record;
  const { id, release, state, match, attempt, createdAt, window, download, notBefore } = rollout;
  const { counter, version, manifestSha256 } = release;
  const { hardware, sites, tags, fromCounter } = match;
  const { plan, stage, stageStartedAt, settledAt, stop, rollbackTo } = controller;
  return {
    id,
    product,
    release: { counter, version, manifestSha256 },
    state,
    match: {
      ...(hardware && { hardware }),
      ...(sites && { sites }),
      ...(tags && { tags }),
      ...(fromCounter && { fromCounter }),
    },
    attempt,
    createdAt,
    startedBy,
    plan,
    stage,
    stageStartedAt,
    ...(settledAt !== undefined && { settledAt }),
    ...(stop && { stop }),
    ...(rollbackTo && { rollbackTo }),
    ...(window !== undefined && { window }),
    ...(download !== undefined && { download }),
    ...(notBefore !== undefined && { notBefore }),
    offlineForMs: rollout.offlineForMs,
    maxDownBasisPoints: rollout.maxDownBasisPoints,
    changes,
  };
}
