import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import * as fc from 'fast-check';
import { applyPatch, encodePatch } from '@sitecast/shared/delta';
import { describe, expect, it } from 'vitest';
import { encodeBzip2 } from './encode.ts';

/** Encodes the bytes as a patch: `encodePatch` decodes the result, and compares. */
async function expectRead(plain: Uint8Array): Promise<void> {
  const streams = { control: Int32Array.of(0, plain.length, 0), diff: new Uint8Array(), extra: plain };
  const patch = await encodePatch(streams, [{ codec: 'bzip2', encode: encodeBzip2 }]);
  const made = applyPatch({ patch, base: new Uint8Array(), targetLength: plain.length });
  expect(Buffer.compare(made, plain)).toBe(0);
}

describe('bzip2', () => {
  it('makes what the decoder of devices reads, whatever was encoded', async () => {
    const bytes = fc.uint8Array({ minLength: 1, maxLength: 2000 });
    const runs = fc
      .array(fc.tuple(fc.nat(3), fc.integer({ min: 1, max: 600 })), { minLength: 1, maxLength: 30 })
      .map(list => Buffer.concat(list.map(([byte, count]) => Buffer.alloc(count, byte))));
    await fc.assert(fc.asyncProperty(fc.oneof(bytes, runs), plain => expectRead(plain)));
  });

  it('makes what the decoder reads from several blocks, equal rotations, and a run of one byte', async () => {
    await expectRead(randomBytes(950_000));
    await expectRead(Buffer.alloc(3_000_000));
    await expectRead(Buffer.from('ab'.repeat(5000)));
  });

  it('makes no more bytes than bzip2 -9, and bzip2 reads them', ({ skip }) => {
    const isThere = ((): boolean => {
      try {
        return execFileSync('bzip2', ['-9'], { input: 'x' }).length > 0;
      } catch {
        return false;
      }
    })();
    skip(!isThere, 'bzip2 is not installed');
    const words = Array.from({ length: 60_000 }, (_, at) =>
      createHash('md5')
        .update(`${at % 7000}`)
        .digest('hex')
        .slice(0, 1 + (at % 5)),
    );
    const plain = Buffer.from(words.join(' '));
    const coded = encodeBzip2(plain);
    expect(execFileSync('bzip2', ['-dc'], { input: coded, maxBuffer: 2 ** 30 }).equals(plain)).toBe(true);
    expect(coded.length).toBeLessThanOrEqual(execFileSync('bzip2', ['-9'], { input: plain }).length);
  });
});
