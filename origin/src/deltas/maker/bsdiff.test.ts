import { randomBytes } from 'node:crypto';
import type { PatchStreams } from '@sitecast/shared/delta';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { bsdiff } from './bsdiff.ts';

/** bspatch, after its source code. */
function patched(base: Uint8Array, { control, diff, extra }: PatchStreams): Buffer {
  const parts: Uint8Array[] = [];
  let baseAt = 0;
  let diffAt = 0;
  let extraAt = 0;
  for (let at = 0; at < control.length; at += 3) {
    const [add = 0, insert = 0, skip = 0] = control.subarray(at, at + 3);
    const from = baseAt;
    const offset = diffAt;
    parts.push(
      Uint8Array.from({ length: add }, (_, byte) => (base[from + byte] ?? 0) + (diff[offset + byte] ?? 0)),
    );
    parts.push(extra.subarray(extraAt, extraAt + insert));
    baseAt += add + skip;
    diffAt += add;
    extraAt += insert;
  }
  return Buffer.concat(parts);
}

it('makes streams that give the target, whatever base and target are', () => {
  const few = fc.uint8Array({ max: 3, maxLength: 300 });
  const many = fc.uint8Array({ maxLength: 300 });
  fc.assert(
    fc.property(fc.oneof(few, many), fc.oneof(few, many), (base, target) => {
      expect(patched(base, bsdiff(base, target)).equals(target)).toBe(true);
    }),
  );
});

it('finds bytes that moved, and codes changed addresses as differences', () => {
  const base = randomBytes(200_000);
  const target = Buffer.concat([base.subarray(120_000), randomBytes(50), base.subarray(0, 120_000)]);
  for (let at = 0; at < target.length; at += 500) target[at] = (target[at] ?? 0) + 7;
  const streams = bsdiff(base, target);
  expect(patched(base, streams).equals(target)).toBe(true);
  expect(streams.extra.length).toBeLessThan(100);
  expect(streams.control.length).toBeLessThan(30);
  expect(streams.diff.filter(byte => byte === 7).length).toBeGreaterThan(390);
});

it('takes an empty base or target, too', () => {
  expect(patched(new Uint8Array(), bsdiff(new Uint8Array(), Buffer.from('new'))).toString()).toBe('new');
  expect(patched(Buffer.from('old'), bsdiff(Buffer.from('old'), new Uint8Array())).length).toBe(0);
});
