export { encodedPiece, largestNested, largestOpened, SYSTEM_ENCODERS } from './fixtures.ts';
export { type FuzzResult, fuzzDeltas } from './fuzz.ts';
export { Random } from './mutations.ts';
export { peakAboveIdle } from './peak.ts';
