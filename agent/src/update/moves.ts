/** A chunk that is copied within a slot, in bytes of that slot. */
export interface Move {
  readonly from: number;
  readonly lengthBytes: number;
  /** All new places: an image may repeat a chunk. */
  readonly to: readonly number[];
}

/** `copy`: read and write. `hold`: read into memory, because its source is about to be overwritten. `writeHeld`: write from memory. */
export interface MoveStep {
  readonly does: 'copy' | 'hold' | 'writeHeld';
  /** The move's number in the list. */
  readonly move: number;
}

/**
 * An order of moves in which no bytes are overwritten before they were read. Pure. Where moves wait for each other in a circle, one of them
 * is held in memory; if that exceeds the bound, it is left out, and its chunk must come from elsewhere.
 */
export function* orderMoves(moves: readonly Move[], maxHeldBytes: number): Generator<MoveStep> {
  const { dependents, blockers } = graphOf(moves);
  const isDone = new Uint8Array(moves.length);
  const isHeld = new Uint8Array(moves.length);
  const ready = moves.flatMap((_, at) => (blockers[at] === 0 ? [at] : [])).reverse();
  let heldBytes = 0;
  let circled = 0;
  const release = (at: number): void => {
    for (const dependent of dependents[at] ?? []) {
      const left = (blockers[dependent] ?? 0) - 1;
      blockers[dependent] = left;
      if (left === 0 && isDone[dependent] === 0) ready.push(dependent);
    }
  };
  for (;;) {
    const at = ready.pop();
    if (at !== undefined) {
      const lengthBytes = moves[at]?.lengthBytes ?? 0;
      isDone[at] = 1;
      yield { does: isHeld[at] === 1 ? 'writeHeld' : 'copy', move: at };
      if (isHeld[at] === 1) heldBytes -= lengthBytes;
      else release(at);
      continue;
    }
    while (circled < moves.length && (isDone[circled] === 1 || isHeld[circled] === 1)) circled += 1;
    if (circled >= moves.length) return;
    const lengthBytes = moves[circled]?.lengthBytes ?? 0;
    if (heldBytes + lengthBytes <= maxHeldBytes) {
      isHeld[circled] = 1;
      heldBytes += lengthBytes;
      yield { does: 'hold', move: circled };
    } else {
      isDone[circled] = 1;
    }
    release(circled);
  }
}

/**
 * The order's graph: `dependents[move]` are the moves that overwrite its source; `blockers[move]` counts the sources that it would
 * overwrite.
 */
function graphOf(moves: readonly Move[]): { dependents: number[][]; blockers: Uint32Array } {
  const bySource = moves.map((_, at) => at).sort((one, other) => fromOf(moves, one) - fromOf(moves, other));
  const longest = moves.reduce((most, { lengthBytes }) => Math.max(most, lengthBytes), 0);
  const dependents: number[][] = moves.map(() => []);
  const blockers = new Uint32Array(moves.length);
  for (const [writer, { to, lengthBytes }] of moves.entries()) {
    const readers = new Set<number>();
    for (const start of to)
      for (const reader of readersWithin(moves, bySource, { start, end: start + lengthBytes, longest }))
        if (reader !== writer) readers.add(reader);
    blockers[writer] = readers.size;
    for (const reader of readers) dependents[reader]?.push(writer);
  }
  return { dependents, blockers };
}

/** The moves whose source overlaps a range. */
function* readersWithin(
  moves: readonly Move[],
  bySource: readonly number[],
  { start, end, longest }: { start: number; end: number; longest: number },
): Generator<number> {
  let [low, high] = [0, bySource.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (fromOf(moves, bySource[middle] ?? 0) > start - longest) high = middle;
    else low = middle + 1;
  }
  for (let place = low; place < bySource.length; place += 1) {
    const reader = bySource[place] ?? 0;
    const from = fromOf(moves, reader);
    if (from >= end) return;
    if (from + (moves[reader]?.lengthBytes ?? 0) > start) yield reader;
  }
}

const fromOf = (moves: readonly Move[], at: number): number => moves[at]?.from ?? 0;
