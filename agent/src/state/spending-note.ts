import { join } from 'node:path';
import { readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';

const SPENDING_FILE = 'spending.json';
const MAX_SPENDING_BYTES = 64 * 1024;
/** How many recipes may fail for one image. After that, only chunks are used. */
export const MAX_FAILED_RECIPES = 2;
/** How many recipes are fetched for one image. Each costs bytes, whether it is usable or not. */
export const MAX_RECIPES = 8;

const hexId = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.int().min(0);
const spendingSchema = z.looseObject({
  format: z.literal('sitecast-spending-1'),
  /** SHA-256 of the index of the image that the note is about. */
  indexSha256: hexId,
  /** Counter of the release. */
  counter: count.optional(),
  version: z.string().optional(),
  /** The most bytes that gateways may have sent for it: the note is written ahead of them. */
  spentBytes: count,
  /** Bytes that had been counted when the note was written. Missing in notes of earlier versions. */
  countedBytes: count.optional(),
  /** CPU time for applying patches, in ms. */
  applyMs: count,
  /** Bytes by the plan at the beginning of the download, including those that were spent by then. */
  plannedBytes: count.optional(),
  /** The plan had no lengths of frames, so it is an upper bound. */
  isPlanAtMost: z.boolean().optional(),
  failedRecipes: z.array(hexId).max(MAX_FAILED_RECIPES),
  /** SHA-256 of the recipes that were fetched for it. */
  recipes: z.array(hexId).max(MAX_RECIPES).optional(),
  /** The recipe whose patches were applied last. */
  trial: z
    .looseObject({
      recipe: hexId,
      /** How often in a row an agent has ended while applying its patches, without progress. */
      deaths: count,
      /** Whether patches are being applied. If a start of the agent reads true, the agent before has ended meanwhile. */
      isOpen: z.boolean(),
    })
    .optional(),
});
/** The file's content. */
export type Noted = z.infer<typeof spendingSchema>;

/** @param directory the agent's data directory */
export function notePath(directory: string): string {
  return join(directory, SPENDING_FILE);
}

/** Counts an open trial as cut short: the process that began it has ended. */
export function withDeath({ trial, ...noted }: Noted): Noted {
  if (!trial) return noted;
  return { ...noted, trial: trial.isOpen ? { ...trial, deaths: trial.deaths + 1, isOpen: false } : trial };
}

/** @returns undefined where there is no note, or it is damaged */
export async function readNote(path: string): Promise<Noted | undefined> {
  try {
    const bytes = await readFileBounded(path, MAX_SPENDING_BYTES);
    return spendingSchema.parse(JSON.parse(bytes.toString('utf8')));
  } catch (error) {
    // None yet, or damaged.
    if (isSystemError(error) || error instanceof SitecastError) return undefined;
    if (error instanceof SyntaxError || error instanceof z.ZodError) return undefined;
    throw error;
  }
}
