import type { Change, Files } from './changes.ts';
import { choicesFor } from './choices.ts';
import { type CutDisk, DiskHistory, digestOf } from './disk-history.ts';

export interface CutOptions {
  seed: number;
  /** Disks of each cut. */
  choices: number;
  /** Only each so many-th cut is tried, and the last one. */
  step?: number;
  /** As if nothing were ever synced. */
  ignoresSyncs?: boolean;
  /** Ends at the first thing that is wrong. */
  untilWrong?: boolean;
}

export interface CutResult {
  cuts: number;
  /** Disks that differ, or with other marks before them. */
  distinct: number;
  /** What was wrong after a cut, in words; at most one for each disk. */
  wrong: string[];
}

/**
 * Cuts the power at each change of a record, and judges each disk that may be left once.
 * @param judge says what is wrong; undefined: nothing
 */
export async function cutAll(
  { before, changes }: { before: Files; changes: readonly Change[] },
  { seed, choices, step = 1, ignoresSyncs = false, untilWrong = false }: CutOptions,
  judge: (disk: CutDisk, cut: number) => Promise<string | undefined>,
): Promise<CutResult> {
  const result: CutResult = { cuts: 0, distinct: 0, wrong: [] };
  const history = new DiskHistory(before, changes, { ignoresSyncs });
  const seen = new Set<string>();
  for (const cut of cutsOf(history.length, step))
    for (const choice of choicesFor(cut, { seed, count: choices })) {
      const disk = history.after(cut, choice);
      result.cuts += 1;
      const key = `${digestOf(disk)} ${marksBefore(changes, cut).length}`;
      if (seen.has(key)) continue;
      seen.add(key);
      result.distinct += 1;
      const wrong = await judge(disk, cut);
      if (wrong !== undefined) result.wrong.push(`after ${cut} changes: ${wrong}`);
      if (untilWrong && wrong !== undefined) return result;
    }
  return result;
}

/** What programs had said before the cut. */
export function marksBefore(changes: readonly Change[], cut: number): string[] {
  return changes.slice(0, cut).flatMap(change => (change.kind === 'mark' ? [change.name] : []));
}

function* cutsOf(length: number, step: number): Generator<number> {
  for (let cut = 0; cut < length; cut += step) yield cut;
  yield length;
}
