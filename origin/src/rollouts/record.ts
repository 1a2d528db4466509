import { rolloutSchema } from '@sitecast/shared/fleet';
import { nameSchema } from '@sitecast/shared/release';
import { z } from 'zod';
import { controllerStateSchema } from './controller/state.ts';

const MAX_CHANGES = 100;

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

/** A change that is on its way into the signed file: whether it got there, the file tells. */
const nextSchema = z.object({
  rollout: rolloutSchema,
  controller: controllerStateSchema,
  change: changeSchema,
});

/**
 * What the origin remembers of a rollout beside the signed file. The file decides: a record that it doesn't bear out
 * is mended at the next start.
 */
export const rolloutRecordSchema = z.object({
  product: nameSchema,
  /** As it was last published. */
  rollout: rolloutSchema,
  startedBy: z.string(),
  changes: z.array(changeSchema).max(MAX_CHANGES),
  controller: controllerStateSchema,
  next: nextSchema.exactOptional(),
  /** No longer in the file, which has just so much room. */
  isPruned: z.boolean().exactOptional(),
});
export type RolloutRecord = z.infer<typeof rolloutRecordSchema>;

export function withChange(record: RolloutRecord, change: Change): RolloutRecord {
  return { ...record, changes: [...record.changes, change].slice(-MAX_CHANGES) };
}
