// What LZMA's decoder and encoder share, after Igor Pavlov's "LZMA specification" (public domain). All probabilities lie in one array, each kind at an
// offset.

export const MODEL_BITS = 11;
export const MODEL_TOTAL = 2 ** MODEL_BITS;
export const MOVE_BITS = 5;

const STATES = 12;
export const POS_STATES = 16;
export const LENGTH_STATES = 4;
export const MIN_MATCH = 2;
export const END_POS_MODEL = 14;
export const ALIGN_BITS = 4;

// Offsets of the probabilities.
export const IS_MATCH = 0;
export const IS_REP = IS_MATCH + STATES * POS_STATES;
export const IS_REP_G0 = IS_REP + STATES;
export const IS_REP_G1 = IS_REP_G0 + STATES;
export const IS_REP_G2 = IS_REP_G1 + STATES;
export const IS_REP0_LONG = IS_REP_G2 + STATES;
export const POS_SLOT = IS_REP0_LONG + STATES * POS_STATES;
export const SPEC_POS = POS_SLOT + LENGTH_STATES * 64;
export const ALIGN = SPEC_POS + 128;
// A length coder: two choices, 16 low trees of 3 bits, 16 middle ones of 3, a high one of 8.
export const LENGTH_LOW = 2;
export const LENGTH_MIDDLE = LENGTH_LOW + POS_STATES * 8;
export const LENGTH_HIGH = LENGTH_MIDDLE + POS_STATES * 8;
const LENGTH_SIZE = LENGTH_HIGH + 256;
export const MATCH_LENGTH = ALIGN + 16;
export const REP_LENGTH = MATCH_LENGTH + LENGTH_SIZE;
export const LITERAL = REP_LENGTH + LENGTH_SIZE;
export const LITERAL_SIZE = 0x300;

/** How many probabilities there are with these properties: literal context bits, literal position bits. */
export function probabilityCount(lc: number, lp: number): number {
  return LITERAL + LITERAL_SIZE * 2 ** (lc + lp);
}

// What was coded last: states 0 to 6 after a literal.
export const FIRST_MATCH_STATE = 7;

export function afterLiteral(state: number): number {
  if (state < 4) return 0;
  return state < 10 ? state - 3 : state - 6;
}

export function afterMatch(state: number): number {
  return state < FIRST_MATCH_STATE ? 7 : 10;
}

export function afterRep(state: number): number {
  return state < FIRST_MATCH_STATE ? 8 : 11;
}

export function afterShortRep(state: number): number {
  return state < FIRST_MATCH_STATE ? 9 : 11;
}

/** Matches of 2, 3, 4, and more bytes have distances of their own. */
export function lengthStateOf(length: number): number {
  return Math.min(length - MIN_MATCH, LENGTH_STATES - 1);
}
