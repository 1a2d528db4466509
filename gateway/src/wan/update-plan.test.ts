import { ChunkIndexBuilder, chunkIdOf } from '@sitecast/shared/content';
import { applicableWith, type Recipe } from '@sitecast/shared/delta';
import { expect, it } from 'vitest';
import { joined, planUpdate } from './update-plan.ts';

function indexOf(names: string): ReturnType<ChunkIndexBuilder['finish']> {
  const builder = new ChunkIndexBuilder({ minBytes: 1, avgBytes: 64, maxBytes: 1024 });
  Array.from(names, (name, at) => builder.add(chunkIdOf(Buffer.from(name)), (at + 1) * 100));
  return builder.finish();
}

const idOf = (name: string) => chunkIdOf(Buffer.from(name));

function windowAt(firstChunk: number, baseLength = 100): Recipe['windows'][number] {
  return {
    firstChunk,
    chunkCount: 1,
    baseOffset: 0,
    baseLength,
    patchLength: 200,
    frameBytes: 1,
    encoderBits: 0,
  };
}

function recipeWith(firstChunk: number, baseLength = 100): Recipe {
  const release = { counter: 1, indexSha256: '' };
  const head = {
    product: 'camera',
    from: release,
    to: release,
    patchIndexSha256: '',
    encoders: [],
    restFrameBytes: 0,
  };
  return { ...head, windows: [windowAt(firstChunk, baseLength)], indexDifference: undefined };
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

it('takes the patches of those windows alone that devices can apply, and the chunks of the others', () => {
  const [base, target] = [indexOf('abcd'), indexOf('abXYZ')];
  const windows = [2, 3, 4].map((firstChunk, at) => ({
    ...windowAt(firstChunk),
    patchLength: [150, 100, 150][at] ?? 0,
    encoderBits: at === 1 ? 1 : 0,
  }));
  // Their patches lie at 0, 150 and 250 of 400: p and q, q and r, r and s.
  const delta = { recipe: { ...recipeWith(2), encoders: ['zstd'], windows }, patchIndex: indexOf('pqrs') };
  const namesOf = (encoders: string[]) => {
    const plan = planUpdate(target, base, delta, applicableWith(['zstd'], encoders));
    return ['p', 'q', 'r', 's', 'X', 'Y', 'Z'].filter(name => plan.ids.has(idOf(name))).join('');
  };
  expect(namesOf(['zstd'])).toBe('pqrs');
  expect(namesOf([])).toBe('pqrsY');
  const last = {
    ...delta,
    recipe: {
      ...delta.recipe,
      windows: windows.map((window, at) => ({ ...window, encoderBits: at === 0 ? 0 : 1 })),
    },
  };
  const plan = planUpdate(target, base, last, applicableWith(['zstd'], []));
  expect(['p', 'q', 'r', 's', 'X', 'Y', 'Z'].filter(name => plan.ids.has(idOf(name))).join('')).toBe('pqYZ');
});

it('takes no chunks of zeros: nobody fetches them', () => {
  const builder = new ChunkIndexBuilder({ minBytes: 1, avgBytes: 64, maxBytes: 1024 });
  builder.add(chunkIdOf(Buffer.alloc(100)), 100);
  builder.add(chunkIdOf(Buffer.from('x')), 101);
  expect(planUpdate(builder.finish(), undefined, undefined).bytes).toBe(1);
});
