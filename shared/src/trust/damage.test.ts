import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SitecastError } from '../errors.ts';
import { parseMetadata } from './metadata.ts';
import { canonicalBytes } from './signing.ts';
import { parseStrictJson } from './strict-json.ts';
import { newSigner, TestRepository } from './testing/index.ts';
import { TrustedSet } from './trusted-set.ts';

const value = fc.letrec(tie => ({
  any: fc.oneof(
    fc.maxSafeInteger().map(number => (Object.is(number, -0) ? 0 : number)),
    fc.string({ unit: 'grapheme' }),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie('any'), { maxLength: 4 }),
    fc.dictionary(
      fc.string({ unit: 'grapheme' }).filter(name => name !== '__proto__'),
      tie('any'),
      { maxKeys: 4 },
    ),
  ),
})).any;

describe('strict JSON', () => {
  it('returns every value that canonical JSON can hold', () => {
    fc.assert(
      fc.property(value, fc.constantFrom(undefined, 1), (original, indent) => {
        const text = JSON.stringify(original, undefined, indent);
        expect(parseStrictJson(Buffer.from(text))).toEqual(JSON.parse(text));
      }),
    );
  });

  it('accepts nothing that JSON does not allow, and throws its own error only', () => {
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 20 }),
      fc.json().map(text => Buffer.from(text)),
    );
    fc.assert(
      fc.property(bytes, input => {
        try {
          expect(parseStrictJson(input)).toEqual(JSON.parse(Buffer.from(input).toString()));
        } catch (error) {
          // The text is refused. Any other error would be a bug.
          if (!(error instanceof SitecastError)) throw error;
        }
      }),
    );
  });
});

describe('a signed file with one byte changed', () => {
  it('is refused, or has the same meaning', async () => {
    const repository = await TestRepository.create();
    repository.setSigners('timestamp', [newSigner(), newSigner()]);
    await repository.publish('root', 'timestamp');
    const honest = repository.bytesOf('timestamp');
    const said = canonicalBytes(parseMetadata(honest, 'timestamp').signed);
    const root = repository.bytesOf('root');
    const changed = fc.tuple(fc.nat(honest.length - 1), fc.integer({ min: 1, max: 255 }));
    fc.assert(
      fc.property(changed, ([at, by]) => {
        const bytes = honest.map((byte, index) => (index === at ? byte ^ by : byte));
        const set = new TrustedSet(root, repository.nowMs);
        try {
          set.updateTimestamp(bytes);
        } catch (error) {
          // The file is refused. Any other error would be a bug.
          if (!(error instanceof SitecastError)) throw error;
          return;
        }
        expect(Buffer.from(canonicalBytes(set.timestamp?.signed ?? {}))).toEqual(Buffer.from(said));
      }),
      { numRuns: 300 },
    );
  });
});
