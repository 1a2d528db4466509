/** Waiting, retrying and repeating. A serial queue is `pLimit(1)` of p-limit. */
export { type Answer, askInTurn } from './ask-in-turn.ts';
export { Backoff, withJitter } from './backoff.ts';
export { forEachBounded } from './for-each-bounded.ts';
export { orAborted } from './or-aborted.ts';
export { type After, repeat } from './repeat.ts';
export { sleep } from './sleep.ts';
