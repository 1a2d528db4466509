import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { type Move, orderMoves } from './moves.ts';

/** Carries the steps out on bytes. @returns the bytes, and how many moves were left out */
function carriedOut(bytes: Uint8Array, moves: readonly Move[], maxHeldBytes: number) {
  const slot = Uint8Array.from(bytes);
  const held = new Map<number, Uint8Array>();
  const done = new Set<number>();
  let mostHeld = 0;
  for (const { does, move } of orderMoves(moves, maxHeldBytes)) {
    const { from, lengthBytes, to } = moves[move] ?? { from: 0, lengthBytes: 0, to: [] };
    const content = held.get(move) ?? slot.slice(from, from + lengthBytes);
    if (does === 'hold') held.set(move, content);
    else {
      for (const place of to) slot.set(content, place);
      held.delete(move);
      done.add(move);
    }
    mostHeld = Math.max(
      mostHeld,
      [...held.values()].reduce((sum, one) => sum + one.length, 0),
    );
  }
  return { slot, done, mostHeld };
}

/** Chunks of a slot, some of which are elsewhere in the next image. */
const cases = fc
  .array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 24 })
  .chain(lengths =>
    fc.record({
      lengths: fc.constant(lengths),
      order: fc.shuffledSubarray(lengths.map((_, at) => at)),
      gaps: fc.array(fc.integer({ min: 0, max: 5 }), {
        minLength: lengths.length,
        maxLength: lengths.length,
      }),
    }),
  )
  .map(({ lengths, order, gaps }) => {
    const starts = lengths.map((_, at) => lengths.slice(0, at).reduce((sum, one) => sum + one, 0));
    let place = 0;
    const moves = order.map((chunk, at) => {
      place += gaps[at] ?? 0;
      const move = { from: starts[chunk] ?? 0, lengthBytes: lengths[chunk] ?? 1, to: [place] };
      place += move.lengthBytes;
      return move;
    });
    return { moves, sizeBytes: place + starts.length * 9 + 9 };
  });

it('never overwrites bytes that are still to be read, whatever moves where', () => {
  fc.assert(
    fc.property(cases, ({ moves, sizeBytes }) => {
      const before = Uint8Array.from({ length: sizeBytes }, (_, at) => at % 251);
      const { slot, done } = carriedOut(before, moves, Number.POSITIVE_INFINITY);
      expect(done.size).toBe(moves.length);
      for (const { from, lengthBytes, to } of moves)
        for (const place of to)
          expect(slot.slice(place, place + lengthBytes)).toEqual(before.slice(from, from + lengthBytes));
    }),
    { numRuns: 500 },
  );
});

it('holds no more than its bound, leaves out circles beyond it, and gets the others right', () => {
  fc.assert(
    fc.property(cases, fc.integer({ min: 0, max: 12 }), ({ moves, sizeBytes }, maxHeldBytes) => {
      const before = Uint8Array.from({ length: sizeBytes }, (_, at) => at % 251);
      const { slot, done, mostHeld } = carriedOut(before, moves, maxHeldBytes);
      expect(mostHeld).toBeLessThanOrEqual(maxHeldBytes);
      for (const at of done) {
        const { from, lengthBytes, to } = moves[at] ?? { from: 0, lengthBytes: 0, to: [] };
        for (const place of to)
          expect(slot.slice(place, place + lengthBytes)).toEqual(before.slice(from, from + lengthBytes));
      }
    }),
    { numRuns: 500 },
  );
});

it('needs no memory where everything moves in one direction', () => {
  const up = Array.from({ length: 50 }, (_, at) => ({ from: at * 10, lengthBytes: 10, to: [at * 10 + 3] }));
  expect([...orderMoves(up, 0)].map(({ does }) => does)).toEqual(up.map(() => 'copy'));
  const down = up.map(({ from, lengthBytes }) => ({ from: from + 100, lengthBytes, to: [from + 97] }));
  expect([...orderMoves(down, 0)].map(({ does }) => does)).toEqual(down.map(() => 'copy'));
});
