import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { suffixArray } from './suffix-array.ts';

function sortedNaively(text: Uint8Array): number[] {
  return Array.from(text.keys()).sort((one, other) =>
    Buffer.compare(text.subarray(one), text.subarray(other)),
  );
}

it('sorts the suffixes of texts over few and over many symbols', () => {
  const fewSymbols = fc.uint8Array({ max: 2, maxLength: 200 });
  const manySymbols = fc.uint8Array({ maxLength: 200 });
  fc.assert(
    fc.property(fc.oneof(fewSymbols, manySymbols), text => {
      expect([...suffixArray(text)]).toEqual(sortedNaively(text));
    }),
  );
});

it('sorts what repeats itself', () => {
  for (const text of ['', 'a', 'aaaaaaaa', 'abababababab', 'mississippi', 'abcabcabc'.repeat(20)]) {
    const bytes = Buffer.from(text);
    expect([...suffixArray(bytes)]).toEqual(sortedNaively(bytes));
  }
});
