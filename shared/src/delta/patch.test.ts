import { expect, it } from 'vitest';
import { needsProgram } from '../content/fixtures.ts';
import { applyPatch } from './apply.ts';
import { bzip2, changedPieces, codeOf, lzma, SYSTEM_ENCODERS } from './testing/fixtures.ts';
import { encodePatch, type PatchStreams, readPatch, type StreamEncoder } from './patch.ts';

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

it('leaves out triples that add and insert nothing, but for a first skip', async () => {
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

it('codes each stream with the codec that makes it smallest, without bytes that the decoder does not need', async context => {
  needsProgram(context, 'bzip2', '--help');
  needsProgram(context, 'xz', '--version');
  const { base, streams, target } = changedPieces(200_000, 200_000);
  const patch = await encodePatch(streams, SYSTEM_ENCODERS);
  expect(Buffer.from(applyPatch({ patch, base, targetLength: target.length })).equals(target)).toBe(true);
  const read = readPatch(patch);
  expect(read.diff.codec).not.toBe('stored');
  const whole = [bzip2(streams.diff).length, lzma(streams.diff).length];
  expect(read.diff.bytes.length).toBeLessThanOrEqual(Math.min(...whole) - 8);
});

it('does not use an encoding that its own decoder does not read back', async () => {
  const broken: StreamEncoder = { codec: 'lzma', encode: () => Buffer.alloc(20, 3) };
  await expect(encodePatch(changedPieces(200_000, 200_000).streams, [broken])).rejects.toMatchObject({
    code: 'SITECAST_PATCH_STREAM',
  });
});
