import { describe, expect, it } from 'vitest';
import {
  indexTarget,
  manifestTarget,
  nameSchema,
  parseTargetName,
  patchIndexTarget,
  productTarget,
  recipeTarget,
  versionSchema,
} from './names.ts';

describe('names', () => {
  it.each(['camera', 'a', 'rpi4', 'x-1.2_b', 'a'.repeat(64)])('accepts %s', name => {
    expect(nameSchema.safeParse(name).success).toBe(true);
  });

  it.each(['', '.', '..', 'a..b', '../x', 'a/b', 'A', '-a', 'a-', 'a b', 'a\0', 'a\n', 'é', 'a'.repeat(65)])(
    'refuses %j',
    name => {
      expect(nameSchema.safeParse(name).success).toBe(false);
    },
  );

  it.each(['1.2.3.4', '2026-11-24', 'v1', '1.0.0-rc.1+build~5', '1:2.0'])(
    'accepts %s as a version',
    version => {
      expect(versionSchema.safeParse(version).success).toBe(true);
    },
  );

  it.each(['', ' 1', '1/2', '../1', '1\n', '.1', 'x'.repeat(65)])('refuses %j as a version', version => {
    expect(versionSchema.safeParse(version).success).toBe(false);
  });
});

describe('target names', () => {
  it('can be parsed back, even where a product ends in digits', () => {
    expect(parseTargetName(manifestTarget('cam-2', 17))).toEqual({
      kind: 'manifest',
      product: 'cam-2',
      counter: 17,
    });
    expect(parseTargetName(indexTarget('cam', 1))).toEqual({ kind: 'index', product: 'cam', counter: 1 });
    expect(parseTargetName(productTarget('cam'))).toEqual({ kind: 'product', product: 'cam' });
  });

  it('of deltas can be parsed back, even where a product looks like one', () => {
    for (const product of ['cam', 'cam-2-from-1', 'cam-2']) {
      const delta = { product, from: 3, to: 17 };
      expect(parseTargetName(recipeTarget(delta))).toEqual({ kind: 'recipe', ...delta });
      expect(parseTargetName(patchIndexTarget(delta))).toEqual({ kind: 'patchIndex', ...delta });
    }
  });

  it.each([
    'releases/cam-0.json',
    'releases/cam-01.json',
    'releases/cam-9999999999999999.json',
    'releases/../x-1.json',
    'releases/a/b-1.json',
    'releases/cam-1.json/x',
    'products/.json',
    'products/a..b.json',
    'other/cam.json',
    'releases/cam-1.JSON',
    'deltas/cam-2-from-2.recipe',
    'deltas/cam-02-from-1.recipe',
    'deltas/cam-2-from-9999999999999999.caibx',
    'deltas/cam-2.recipe',
    'deltas/-2-from-1.recipe',
    'deltas/x/cam-2-from-1.recipe',
    'deltas/cam-2-from-1.json',
    'releases/cam-2-from-1.recipe',
  ])('refuses %s', target => {
    expect(parseTargetName(target)).toBeUndefined();
  });
});
