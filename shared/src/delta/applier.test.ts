import { expect, it } from 'vitest';
import { needsProgram } from '../content/fixtures.ts';
import { PatchApplier } from './applier.ts';
import {
  changedPieces,
  largestOpened,
  type MadePatch,
  manyBlocks,
  patchWithDiff,
  SYSTEM_ENCODERS,
} from './testing/fixtures.ts';
import { peakAboveIdle } from './testing/peak.ts';
import { applyPatch } from './apply.ts';
import { encodePatch } from './patch.ts';

const MIB = 1024 * 1024;
const FOREVER = { maxMs: Number.POSITIVE_INFINITY };
/** A patch that takes seconds to apply: about 4 MiB of bzip2 blocks, each of which gives one byte. */
const BLOCKS = 160_000;

async function withApplier(use: (applier: PatchApplier) => Promise<void>): Promise<void> {
  const applier = new PatchApplier();
  try {
    await use(applier);
  } finally {
    await applier.close();
  }
}

it('applies one patch after the other, with the base in its own memory or in any other', () =>
  withApplier(async applier => {
    for (const length of [100_000, 300_000, 200_000]) {
      const { base, streams, target } = changedPieces(400_000, length);
      const patch = await encodePatch(streams, []);
      const memory = applier.baseMemory(base.length);
      memory.set(base);
      for (const from of [base, memory]) {
        const { bytes } = await applier.apply({ patch, base: from, targetLength: target.length, ...FOREVER });
        expect(target.equals(bytes)).toBe(true);
      }
    }
  }));

it('ends a patch that takes too long, tells how long it took, and applies the next', () =>
  withApplier(async applier => {
    const bomb = patchWithDiff(manyBlocks(BLOCKS), BLOCKS);
    const base = Buffer.alloc(BLOCKS);
    await expect(
      applier.apply({ patch: bomb, base, targetLength: BLOCKS, maxMs: 150 }),
    ).rejects.toMatchObject({ code: 'SITECAST_PATCH_TIME', data: { cpuMs: expect.any(Number) } });
    const { streams, target, base: other } = changedPieces(10_000, 10_000);
    const patch = await encodePatch(streams, []);
    const { bytes } = await applier.apply({ patch, base: other, targetLength: target.length, ...FOREVER });
    expect(target.equals(bytes)).toBe(true);
  }));

it('bounds the work of a stream by its length and that of the target', () =>
  withApplier(async applier => {
    const patch = patchWithDiff(manyBlocks(BLOCKS), BLOCKS);
    const { bytes, cpuMs } = await applier.apply({
      patch,
      base: Buffer.alloc(BLOCKS, 1),
      targetLength: BLOCKS,
      ...FOREVER,
    });
    expect(Buffer.alloc(BLOCKS, 1).equals(bytes)).toBe(true);
    expect(cpuMs).toBeGreaterThan(150);
  }));

it('ends with the reason of a signal', () =>
  withApplier(async applier => {
    const patch = patchWithDiff(manyBlocks(BLOCKS), BLOCKS);
    const abort = new AbortController();
    const applied = applier.apply({
      patch,
      base: Buffer.alloc(BLOCKS),
      targetLength: BLOCKS,
      ...FOREVER,
      signal: abort.signal,
    });
    setTimeout(() => abort.abort(new Error('stopped')), 20);
    await expect(applied).rejects.toThrow('stopped');
  }));

it('gives the code of what is wrong, and refuses what is larger than its memory', () =>
  withApplier(async applier => {
    const { streams, target, base } = changedPieces(10_000, 10_000);
    const patch = await encodePatch(streams, []);
    const apply = (change: { patch?: Buffer; base?: Buffer; targetLength?: number }) =>
      applier.apply({ patch, base, targetLength: target.length, ...FOREVER, ...change });
    await expect(apply({ targetLength: 5 })).rejects.toMatchObject({ code: 'SITECAST_PATCH_LENGTH' });
    await expect(apply({ base: base.subarray(0, 100) })).rejects.toMatchObject({
      code: 'SITECAST_PATCH_RANGE',
    });
    await expect(apply({ patch: patch.subarray(0, 9) })).rejects.toMatchObject({
      code: 'SITECAST_PATCH_TRUNCATED',
    });
    for (const change of [
      { targetLength: 4 * MIB + 1 },
      { base: Buffer.alloc(8 * MIB + 1) },
      { patch: Buffer.alloc(4 * MIB + 1) },
    ])
      await expect(apply(change)).rejects.toMatchObject({ code: 'SITECAST_PATCH_LENGTH' });
    const { bytes } = await apply({});
    expect(target.equals(bytes)).toBe(true);
  }));

async function longestWindow(): Promise<MadePatch> {
  const { base, streams, target } = changedPieces(8 * MIB, 4 * MIB);
  return { base, patch: await encodePatch(streams, SYSTEM_ENCODERS), target };
}

it.for([
  ['the longest window', longestWindow],
  ['a window that opens to as much as it may', largestOpened],
] as const)('stays within 64 MiB above idle with %s, again and again', async ([, make], context) => {
  needsProgram(context, 'bzip2', '--help');
  needsProgram(context, 'xz', '--version');
  const made = await make();
  const { base, patch, target } = made;
  expect(Buffer.compare(applyPatch({ patch, base, targetLength: target.length }), target)).toBe(0);
  expect(await peakAboveIdle([made])).toBeLessThan(64 * MIB);
});
