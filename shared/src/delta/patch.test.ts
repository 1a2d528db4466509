import { expect, it } from 'vitest';
import { SitecastError } from '../errors.ts';
import { applyPatch } from './apply.ts';
import { encodePatch, type PatchStreams, readPatch } from './patch.ts';

function codeOf(run: () => unknown): string {
  try {
    run();
    return 'done';
  } catch (error) {
    return error instanceof SitecastError ? error.code : `not a SitecastError: ${String(error)}`;
  }
}

const BASE = Buffer.from('The quick brown fox jumps over the lazy dog');
/** "lazy" with two letters changed, three new ones, and the beginning of the base. */
const STREAMS: PatchStreams = {
  control: Int32Array.of(0, 0, 35, 4, 3, -39, 0, 0, 0, 9, 0, 77),
  diff: Buffer.from([0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
  extra: Buffer.from('...'),
};
const TARGET = Buffer.from('la{y...The quick');

it('adds to the base, inserts, and skips to and fro', async () => {
  const patch = await encodePatch(STREAMS, []);
  expect(Buffer.from(applyPatch({ patch, base: BASE, targetLength: TARGET.length }))).toEqual(TARGET);
  const into = new Uint8Array(TARGET.length);
  expect(applyPatch({ patch, base: BASE, targetLength: TARGET.length, into })).toBe(into);
});

it('leaves out triples that make nothing, but for a first skip', async () => {
  expect(readPatch(await encodePatch(STREAMS, [])).tripleCount).toBe(3);
});

it('refuses a patch that reads outside of the base', async () => {
  const patch = await encodePatch(STREAMS, []);
  const apply = (base: Uint8Array) => codeOf(() => applyPatch({ patch, base, targetLength: TARGET.length }));
  expect(apply(BASE.subarray(0, 39))).toBe('done');
  expect(apply(BASE.subarray(0, 38))).toBe('SITECAST_PATCH_RANGE');
  const before = await encodePatch({ ...STREAMS, control: Int32Array.of(0, 0, -1, 13, 3, 0) }, []);
  expect(codeOf(() => applyPatch({ patch: before, base: BASE, targetLength: 16 }))).toBe(
    'SITECAST_PATCH_RANGE',
  );
});

it('refuses a patch of another length than the window has', async () => {
  const patch = await encodePatch(STREAMS, []);
  expect(codeOf(() => applyPatch({ patch, base: BASE, targetLength: 15 }))).toBe('SITECAST_PATCH_LENGTH');
  const lying = await encodePatch({ ...STREAMS, control: Int32Array.of(12, 3, 0) }, []);
  expect(codeOf(() => applyPatch({ patch: lying, base: BASE, targetLength: 16 }))).toBe(
    'SITECAST_PATCH_LENGTH',
  );
});

it('refuses a patch that is cut off anywhere, and one of an unknown format', async () => {
  const patch = await encodePatch(STREAMS, []);
  const apply = (bytes: Uint8Array) =>
    codeOf(() => applyPatch({ patch: bytes, base: BASE, targetLength: TARGET.length }));
  for (let length = 0; length < patch.length; length += 1)
    expect(apply(patch.subarray(0, length))).toMatch(/^SITECAST_PATCH_(TRUNCATED|STREAM)$/);
  const other = Buffer.from(patch);
  other[1] = 2;
  expect(apply(other)).toBe('SITECAST_PATCH_FORMAT');
});
