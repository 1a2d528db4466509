import { expect } from 'vitest';

/** Bytes are compared as bytes: vitest itself walks through every index of a buffer, which was a fifth of what some tests cost. */
function bytesAreEqual(one: unknown, other: unknown): boolean | undefined {
  if (!(one instanceof Uint8Array) || !(other instanceof Uint8Array)) return undefined;
  // What differs in more than its bytes is left to vitest.
  return one.constructor === other.constructor && Buffer.compare(one, other) === 0 ? true : undefined;
}

/** Files that share a worker share its testers. */
const ADDED = Symbol.for('sitecast.bytesAreEqual');
if (!Reflect.has(globalThis, ADDED)) {
  Reflect.set(globalThis, ADDED, true);
  expect.addEqualityTesters([bytesAreEqual]);
}
