import { join } from 'node:path';
import { readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';

const SPENDING_FILE = 'spending.json';
const MAX_SPENDING_BYTES = 64 * 1024;
/** Recipes that may fail for one image. After that it comes by chunks alone. */
export const MAX_FAILED_RECIPES = 2;
/** Recipes that are fetched for one image. After that no new one is: each costs bytes, whether it is of use or not. */
export const MAX_RECIPES = 8;

const hexId = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.int().min(0);
const spendingSchema = z.looseObject({
  format: z.literal('sitecast-spending-1'),
  /** SHA-256 of the image's index: what the rest is about. */
  indexSha256: hexId,
  /** Of the release. */
  counter: count.optional(),
  version: z.string().optional(),
  /** Bytes that came from gateways for it, at most so many: the note goes ahead of them. */
  spentBytes: count,
  /** Bytes that had been counted when the note was written. Absent in notes of earlier versions. */
  countedBytes: count.optional(),
  /** CPU time of applied patches, milliseconds. */
  applyMs: count,
  /** By the plan that its download began with, what was spent by then among them. */
  plannedBytes: count.optional(),
  /** The plan knew no lengths of frames: it takes at most that. */
  isPlanAtMost: z.boolean().optional(),
  failedRecipes: z.array(hexId).max(MAX_FAILED_RECIPES),
  /** SHA-256 of those that were fetched for it. */
  recipes: z.array(hexId).max(MAX_RECIPES).optional(),
  /** The recipe whose patches were applied last. */
  trial: z
    .looseObject({
      recipe: hexId,
      /** How often in a row an agent has ended in the middle of its patches, with nothing made of them. */
      deaths: count,
      /** Patches are being applied. Where a start of the agent reads that, the one before has ended in the middle. */
      isOpen: z.boolean(),
    })
    .optional(),
});
/** What the file says. */
export type Noted = z.infer<typeof spendingSchema>;

/** @param directory of the agent's data */
export function notePath(directory: string): string {
  return join(directory, SPENDING_FILE);
}

/** A trial that is open was cut short by the end of the process that had begun it. */
export function withDeath({ trial, ...noted }: Noted): Noted {
  if (!trial) return noted;
  return { ...noted, trial: trial.isOpen ? { ...trial, deaths: trial.deaths + 1, isOpen: false } : trial };
}

/** @returns undefined where nothing says what was spent */
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
