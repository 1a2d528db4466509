import { isDeepStrictEqual } from 'node:util';
import { type RolloutFigures, rolloutFiguresSchema } from '@sitecast/shared/api';
import { type Rollout, rolloutSchema } from '@sitecast/shared/fleet';
import { nameSchema } from '@sitecast/shared/release';
import { z } from 'zod';
import {
  ALL_AT_ONCE,
  type ControllerState,
  controllerStateSchema,
  newControllerState,
  PLAN_DEFAULTS,
} from './controller/state.ts';

const MAX_CHANGES = 100;

/** States in which devices still act on a rollout. */
export const IS_UNDER_WAY: ReadonlySet<Rollout['state']> = new Set(['active', 'paused', 'rollingBack']);

const changeSchema = z.object({
  at: z.string(),
  by: z.string(),
  state: z.string(),
  /** What was done, such as `rollout.stage`. */
  action: z.string().exactOptional(),
  stage: z.int().exactOptional(),
  why: z.string().exactOptional(),
});
export type Change = z.infer<typeof changeSchema>;

/** A change on its way into the signed file. The file shows whether it got there. */
const nextSchema = z.object({
  rollout: rolloutSchema,
  controller: controllerStateSchema,
  change: changeSchema,
});

/** What the origin stores of a rollout besides the signed file. The file decides: a record that differs is corrected at the next start. */
export const rolloutRecordSchema = z.object({
  product: nameSchema,
  /** As it was last published. */
  rollout: rolloutSchema,
  startedBy: z.string(),
  changes: z.array(changeSchema).max(MAX_CHANGES),
  controller: controllerStateSchema,
  next: nextSchema.exactOptional(),
  /** For an ended rollout: the figures of its devices at the end. */
  figures: rolloutFiguresSchema.exactOptional(),
  /** It was removed from the file, whose room is limited. */
  isPruned: z.boolean().exactOptional(),
});
export type RolloutRecord = z.infer<typeof rolloutRecordSchema>;

export const isUnderWay = ({ rollout }: RolloutRecord): boolean => IS_UNDER_WAY.has(rollout.state);

export function newRecord(
  product: string,
  rollout: Rollout,
  controller: ControllerState,
  startedBy: string,
): RolloutRecord {
  return {
    product,
    rollout,
    startedBy,
    changes: [{ at: rollout.createdAt, by: startedBy, state: rollout.state, action: 'rollout.start' }],
    controller,
  };
}

export function withChange(record: RolloutRecord, change: Change): RolloutRecord {
  return { ...record, changes: [...record.changes, change].slice(-MAX_CHANGES) };
}

/** The record of a rollout that has ended, with its figures of then; another one without any. */
export function withEnd(
  { figures: _before, ...record }: RolloutRecord,
  figures: RolloutFigures | undefined,
): RolloutRecord {
  return { ...record, ...(!isUnderWay(record) && figures && { figures }) };
}

/** A record in line with the signed file: a change that was on its way has arrived there, or is dropped. */
export function reconciledRecord(record: RolloutRecord, rollout: Rollout): RolloutRecord {
  const { next, isPruned: _isPruned, ...rest } = record;
  if (next && isDeepStrictEqual(next.rollout, rollout))
    return withChange({ ...rest, rollout, controller: next.controller }, next.change);
  return { ...rest, rollout, controller: asSigned(rest.controller, rollout) };
}

function asSigned(
  { rollbackTo: _rollbackTo, ...controller }: ControllerState,
  { state: phase, attempt, rollbackTo }: Rollout,
): ControllerState {
  return {
    ...controller,
    phase,
    attempt,
    ...(rollbackTo && { rollbackTo: { counter: rollbackTo.counter, version: rollbackTo.version } }),
  };
}

/** The record of a rollout in the file that has none. Its plan is unknown, so it doesn't grow. */
export function recordOfUnknown(product: string, rollout: Rollout): RolloutRecord {
  const isWhole = rollout.cohort.below === null;
  const stages = isWhole ? [ALL_AT_ONCE] : [{ basisPoints: 1, soakMs: PLAN_DEFAULTS.soakMs }, ALL_AT_ONCE];
  const { maxFailuresBasisPoints, minFailures, onFailure, silentAfterMs } = PLAN_DEFAULTS;
  const plan = { stages, maxFailuresBasisPoints, minFailures, onFailure, silentAfterMs };
  const begun = newControllerState(plan, Date.parse(rollout.createdAt));
  return newRecord(product, rollout, asSigned(begun, rollout), 'unknown');
}
