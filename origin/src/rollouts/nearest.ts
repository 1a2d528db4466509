/** Names that one is compared with: beyond that, help isn't worth its time. */
const MAX_COMPARED = 2000;
/** So many slips of the finger, and at most in every third character. */
const MAX_SLIPS = 3;

/** The known name that someone who typed this one most likely meant; undefined where none is like it. */
export function nearestOf(name: string, known: Iterable<string>): string | undefined {
  let nearest: string | undefined;
  let least = Math.min(MAX_SLIPS, Math.max(1, Math.floor(name.length / 3))) + 1;
  let compared = 0;
  for (const other of known) {
    if (Math.abs(other.length - name.length) >= least) continue;
    compared += 1;
    if (compared > MAX_COMPARED) break;
    const slips = slipsBetween(name.toLowerCase(), other.toLowerCase());
    if (slips >= least) continue;
    nearest = other;
    least = slips;
  }
  return nearest;
}

/** Optimal string alignment: characters put in, left out, exchanged, or swapped with the next. */
function slipsBetween(one: string, other: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (let row = 1; row <= one.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= other.length; column += 1) {
      const isSame = one[row - 1] === other[column - 1];
      const isSwapped = one[row - 1] === other[column - 2] && one[row - 2] === other[column - 1];
      current[column] = Math.min(
        (last[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (last[column - 1] ?? 0) + (isSame ? 0 : 1),
        isSwapped && row > 1 && column > 1 ? (beforeLast[column - 2] ?? 0) + 1 : Number.POSITIVE_INFINITY,
      );
    }
    beforeLast = last;
    last = current;
  }
  return last[other.length] ?? 0;
}
