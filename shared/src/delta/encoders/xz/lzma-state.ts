import { LITERAL, LITERAL_SIZE, MODEL_TOTAL, probabilityCount } from '../../codecs/lzma-model.ts';

// Preset 6: literals depend on the three topmost bits of the byte before, matches on the lowest two bits of the position.
export const LITERAL_CONTEXT_BITS = 3;
export const POS_BITS = 2;
export const POS_MASK = 2 ** POS_BITS - 1;
/** How many of the last distances are kept. */
export const REPS = 4;

/** The state on which LZMA's choices depend, and how each choice changes it. */
export class LzmaState {
  readonly probs = new Uint16Array(probabilityCount(LITERAL_CONTEXT_BITS, 0));
  state = 0;
  /** The last distances, less one. */
  readonly reps = new Int32Array(REPS);

  begin(): void {
    this.probs.fill(MODEL_TOTAL / 2);
    this.state = 0;
    this.reps.fill(0);
  }
}

/** The probabilities of a literal behind this byte. */
export function literalBase(before: number): number {
  return LITERAL + LITERAL_SIZE * (before >> (8 - LITERAL_CONTEXT_BITS));
}
