import { auditEntrySchema } from '@sitecast/shared/audit';
import { z } from 'zod';
import { storedReportSchema } from '../fleet/intake-round.ts';
import { joinTokenSchema } from '../fleet/join-tokens.ts';
import { memberSchema } from '../fleet/member.ts';
import { outcomeSchema } from '../fleet/outcome.ts';
import { statusSchema } from '../fleet/status.ts';
import { type FleetStore, type Table, TABLES, type Write } from '../fleet/store.ts';
import { rolloutRecordSchema } from '../rollouts/record.ts';
import { cohortRowSchema } from '../rollouts/standings.ts';
import { storedTokenSchema } from '../tokens/tokens.ts';

const SCHEMAS: Record<Table, z.ZodType> = {
  member: memberSchema,
  status: statusSchema,
  inventory: z.record(z.string(), z.unknown()),
  report: storedReportSchema,
  outcome: outcomeSchema,
  joinToken: joinTokenSchema,
  token: storedTokenSchema,
  rollout: rolloutRecordSchema,
  cohort: cohortRowSchema,
  seen: z.number(),
  presence: z.literal(true),
  audit: auditEntrySchema,
};
/** Deletions of one write. */
const REMOVED_AT_ONCE = 1000;

/** Deletes what no origin could read, and what would keep it from starting. @returns how many values, by table */
export async function removeUnreadable(store: FleetStore): Promise<Partial<Record<Table, number>>> {
  const counts: Partial<Record<Table, number>> = {};
  for (const table of TABLES) {
    let writes: Write[] = [];
    for await (const [key, value] of store.entries(table)) {
      if (SCHEMAS[table].safeParse(value).success) continue;
      counts[table] = (counts[table] ?? 0) + 1;
      writes.push({ table, key, value: undefined });
      if (writes.length < REMOVED_AT_ONCE) continue;
      await store.commit(writes);
      writes = [];
    }
    if (writes.length > 0) await store.commit(writes);
  }
  return counts;
}
