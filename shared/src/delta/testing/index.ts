export { encodedPiece, SYSTEM_ENCODERS } from './fixtures.ts';
export { type FuzzResult, fuzzDeltas } from './fuzz.ts';
