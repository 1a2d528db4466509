import { randomFrom } from '../random.ts';

/** What a disk has kept of that which wasn't synced. Numbers of changes are of one directory or one file. */
export interface Choice {
  /**
   * @param synced so many changes are durable
   * @param made so many were made
   * @param places where each of them lies in the record
   * @returns how many are on the disk, from `synced` to `made`
   */
  upTo(synced: number, made: number, places: readonly number[]): number;
  ofFile(synced: number, made: number, places: readonly number[]): FileChoice;
}

interface FileChoice {
  /** Its length is the one after so many changes. */
  length: number;
  /** A sector's bytes are those after so many changes, from `from` to `to`. */
  sector(number: number, from: number, to: number): number;
}

/** Nothing is lost: as after the end of a process, with the power on. */
export const everything: Choice = {
  upTo: (_synced, made) => made,
  ofFile: (_synced, made) => ({ length: made, sector: (_number, _from, to) => to }),
};

/** Just what was synced is there. */
export const onlySynced: Choice = {
  upTo: synced => synced,
  ofFile: synced => ({ length: synced, sector: (_number, from) => from }),
};

/** All that was written before a change, and what was synced later: a disk that keeps the order. */
function inOrder(before: number): Choice {
  const upTo: Choice['upTo'] = (synced, _made, places) =>
    Math.max(synced, places.filter(at => at < before).length);
  return {
    upTo: (synced, made, places) => Math.min(made, upTo(synced, made, places)),
    ofFile: (synced, made, places) => {
      const kept = Math.min(made, upTo(synced, made, places));
      return { length: kept, sector: (_number, from, to) => Math.min(to, Math.max(from, kept)) };
    },
  };
}

/** Each directory and each file by itself: up to a random change, or, for files, each sector up to another one. */
function mixed(random: () => number): Choice {
  const between = (from: number, to: number): number => from + Math.floor(random() * (to - from + 1));
  return {
    upTo: between,
    ofFile: (synced, made) => {
      const manner = random();
      if (manner < 0.2) return onlySynced.ofFile(synced, made, []);
      if (manner < 0.4) return everything.ofFile(synced, made, []);
      const length = manner < 0.6 ? made : between(synced, made);
      const sectors = new Map<number, number>();
      return {
        length,
        sector: (number, from, to) => {
          const kept = sectors.get(number) ?? between(from, to);
          sectors.set(number, kept);
          return kept;
        },
      };
    },
  };
}

/**
 * The choices for one cut, seeded: everything, nothing that wasn't synced, and random ones, of which a quarter keep the order.
 * @param cut the number of changes that were made
 */
export function* choicesFor(
  cut: number,
  { seed, count }: { seed: number; count: number },
): Generator<Choice> {
  const random = randomFrom(Math.imul(seed, 0x9e3779b1) ^ cut);
  for (let at = 0; at < count; at += 1) {
    if (at === 0) yield everything;
    else if (at === 1) yield onlySynced;
    else if (at % 4 === 2) yield inOrder(Math.floor(random() * (cut + 1)));
    else yield mixed(random);
  }
}
