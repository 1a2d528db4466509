import { type ChunkIndex, sha256 } from '../../content/index.ts';
import { SitecastError } from '../../errors.ts';
import { PatchApplier } from '../applier.ts';
import { applyPatch } from '../apply.ts';
import { MAX_WINDOW_BASE_BYTES, MAX_WINDOW_TARGET_BYTES } from '../limits.ts';
import { readPatch, type StreamEncoder } from '../patch.ts';
import { decodeRecipe, targetIndexOf, windowsOf } from '../recipe.ts';
import { hostilePatch, type PatchCase, patchCases } from './hostile-patches.ts';
import { hostileRecipe, type RecipeCase } from './hostile-recipes.ts';
import { Random } from './mutations.ts';

/** CPU time that one hostile recipe or patch may take: far more than any does. */
const MAX_CPU_MS = 10_000;
const MAX_MEMORY_BYTES = 64 * 1024 * 1024;
/** Of the patches that open no pieces, one in this many is applied in the worker thread as well. */
const IN_THREAD_ONE_IN = 8;
/** Length of the index that a manifest would name. */
const MAX_INDEX_BYTES = 2 ** 20;
/** CPU time that the thread has. */
const THREAD_MS = 5_000;

export interface FuzzOptions {
  readonly seed: number;
  readonly recipes: number;
  readonly patches: number;
  readonly encoders: readonly StreamEncoder[];
}

export interface FuzzResult {
  /** How many gave a result, and how many were refused, by code. */
  readonly outcomes: ReadonlyMap<string, number>;
  /** How many patches were applied in the worker thread, too. */
  readonly inThread: number;
}

/**
 * Reads and applies hostile recipes and patches. Each must give a result or an error with a code of its own, within bounds of CPU time and
 * memory.
 * @throws the first violation, with the seed and number that repeat it
 */
export async function fuzzDeltas({ seed, recipes, patches, encoders }: FuzzOptions): Promise<FuzzResult> {
  const outcomes = new Map<string, number>();
  const count = (outcome: string) => outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  for (let at = 0; at < recipes; at += 1) {
    const one = hostileRecipe(new Random(seed + at));
    count(`recipe ${bounded(`recipe ${seed + at}`, /^SITECAST_RECIPE_/, () => readRecipe(one))}`);
  }
  const cases = await patchCases(encoders);
  const applier = new PatchApplier();
  let inThread = 0;
  try {
    for (let at = 0; at < patches; at += 1) {
      const random = new Random(seed + at);
      const one = hostilePatch(random, random.pick(nonEmpty(cases)));
      const outcome = bounded(`patch ${seed + at}`, /^SITECAST_PATCH_/, () => apply(one));
      count(`patch ${outcome}`);
      if (!random.oneIn(IN_THREAD_ONE_IN) || opensPieces(one.patch)) continue;
      await sameInThread(applier, one, outcome, `patch ${seed + at}`);
      inThread += 1;
    }
  } finally {
    await applier.close();
  }
  return { outcomes, inThread };
}

/** @returns `done`, or the code of the error */
function bounded(name: string, codes: RegExp, run: () => void): string {
  const cpu = process.cpuUsage();
  const { arrayBuffers } = process.memoryUsage();
  let outcome = 'done';
  try {
    run();
  } catch (error) {
    if (!(error instanceof SitecastError) || !codes.test(error.code))
      throw new Error(`${name}: not an error that it should give`, { cause: error });
    outcome = error.code;
  }
  const { user, system } = process.cpuUsage(cpu);
  if ((user + system) / 1000 > MAX_CPU_MS)
    throw new Error(`${name}: ${(user + system) / 1000} ms of CPU time`);
  const grown = process.memoryUsage().arrayBuffers - arrayBuffers;
  if (grown > MAX_MEMORY_BYTES) throw new Error(`${name}: ${grown} bytes of memory`);
  return outcome;
}

function readRecipe({ recipe: bytes, base, target }: RecipeCase): void {
  const recipe = decodeRecipe(bytes);
  const windows = windowsOf(recipe, base, target);
  for (const window of windows) {
    const isInside =
      window.targetLength <= MAX_WINDOW_TARGET_BYTES &&
      window.baseLength <= MAX_WINDOW_BASE_BYTES &&
      window.baseOffset + window.baseLength <= base.lengthBytes &&
      window.targetOffset + window.targetLength <= target.lengthBytes;
    if (!isInside) throw new Error(`a window outside: ${JSON.stringify(window)}`);
  }
  const index: ChunkIndex = targetIndexOf(recipe, base, MAX_INDEX_BYTES);
  if (sha256(index.encode()).toString('hex') !== recipe.to.indexSha256) throw new Error('another index');
}

function apply({ patch, base, targetLength }: PatchCase): void {
  const { length } = applyPatch({ patch, base, targetLength });
  if (length !== targetLength) throw new Error(`${length} bytes instead of ${targetLength}`);
}

async function sameInThread(
  applier: PatchApplier,
  { patch, base, targetLength }: PatchCase,
  outcome: string,
  name: string,
): Promise<void> {
  let found = 'done';
  try {
    const { bytes } = await applier.apply({ patch, base, targetLength, maxMs: THREAD_MS });
    const wanted = outcome === 'done' ? applyPatch({ patch, base, targetLength }) : undefined;
    if (wanted === undefined || Buffer.compare(wanted, bytes) !== 0) found = 'other bytes';
  } catch (error) {
    found = error instanceof SitecastError ? error.code : String(error);
  }
  if (found !== outcome) throw new Error(`${name}: ${found} in the thread, ${outcome} here`);
}

function opensPieces(patch: Uint8Array): boolean {
  try {
    return readPatch(patch).views !== undefined;
  } catch (error) {
    if (error instanceof SitecastError) return false;
    throw error;
  }
}

function nonEmpty<T>([first, ...rest]: readonly T[]): [T, ...T[]] {
  if (first === undefined) throw new Error('there are no patches');
  return [first, ...rest];
}
