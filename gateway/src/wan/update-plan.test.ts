import { ChunkIndexBuilder, chunkIdOf } from '@sitecast/shared/content';
import type { Recipe } from '@sitecast/shared/delta';
import { expect, it } from 'vitest';
import { joined, planUpdate } from './update-plan.ts';

function indexOf(names: string): ReturnType<ChunkIndexBuilder['finish']> {
  const builder = new ChunkIndexBuilder({ minBytes: 1, avgBytes: 64, maxBytes: 1024 });
  Array.from(names, (name, at) => builder.add(chunkIdOf(Buffer.from(name)), (at + 1) * 100));
  return builder.finish();
}

const idOf = (name: string) => chunkIdOf(Buffer.from(name));

function recipeWith(firstChunk: number, baseLength = 100): Recipe {
  const window = {
    firstChunk,
    chunkCount: 1,
    baseOffset: 0,
    baseLength,
    patchLength: 200,
    frameBytes: 1,
    encoderBits: 0,
  };
  const release = { counter: 1, indexSha256: '' };
  const head = {
    product: 'camera',
    from: release,
    to: release,
    patchIndexSha256: '',
    encoders: [],
    restFrameBytes: 0,
  };
  return { ...head, windows: [window], indexDifference: undefined };
}

it('takes what the running release lacks, by patches where there are some', () => {
  const [base, target] = [indexOf('abcd'), indexOf('abXYcX')];
  const patchIndex = indexOf('pq');
  expect(planUpdate(target, undefined, undefined).bytes).toBe(500);
  expect(planUpdate(target, base, undefined).bytes).toBe(200);
  // The patch makes Y, which lies nowhere else.
  const byDelta = planUpdate(target, base, { recipe: recipeWith(3), patchIndex });
  expect(byDelta.bytes).toBe(300);
  expect(['p', 'q', 'X', 'Y'].map(name => byDelta.ids.has(idOf(name)))).toEqual([true, true, true, false]);
  // A recipe that devices refuse makes no difference.
  expect(planUpdate(target, base, { recipe: recipeWith(3, 1000), patchIndex }).bytes).toBe(200);
});

it('joins the plans of several running releases', () => {
  const target = indexOf('abXY');
  const plans = [planUpdate(target, indexOf('ab'), undefined), planUpdate(target, indexOf('abX'), undefined)];
  const plan = joined(plans);
  expect(plan.ids.size).toBe(2);
  expect(plan.bytes).toBe(300);
});
