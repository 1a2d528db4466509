import { rolloutSchema } from '@sitecast/shared/fleet';
import { nameSchema } from '@sitecast/shared/release';
import { z } from 'zod';

/**
 * What the origin remembers of a rollout beside the signed file. The file decides: a record that it doesn't bear out
 * is mended at the next start.
 */
export const rolloutRecordSchema = z.object({
  product: nameSchema,
  /** As it was last published. */
  rollout: rolloutSchema,
  startedBy: z.string(),
  changes: z.array(z.object({ at: z.string(), by: z.string(), state: z.string() })).max(100),
  /** No longer in the file, which has just so much room. */
  isPruned: z.boolean().exactOptional(),
});
export type RolloutRecord = z.infer<typeof rolloutRecordSchema>;
