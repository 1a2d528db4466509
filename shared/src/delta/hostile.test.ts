import { expect, it } from 'vitest';
import { needsProgram } from '../content/fixtures.ts';
import { fuzzDeltas, SYSTEM_ENCODERS } from './testing/index.ts';

// `npm run test:trials` tries 120,000 (test/trials/deltas.test.ts).
it('gives the result or an error with a code, whatever a recipe or patch says', async context => {
  needsProgram(context, 'bzip2', '--help');
  needsProgram(context, 'xz', '--version');
  const { outcomes, inThread } = await fuzzDeltas({
    seed: 1,
    recipes: 1_500,
    patches: 2_500,
    encoders: SYSTEM_ENCODERS,
  });
  expect([...outcomes.values()].reduce((sum, count) => sum + count, 0)).toBe(4_000);
  expect(inThread).toBeGreaterThan(100);
  // The mutations reach each kind of refusal, and some recipes and patches stay valid.
  const codes = ['FORMAT', 'INVALID', 'TRUNCATED'].flatMap(code => [`RECIPE_${code}`, `PATCH_${code}`]);
  const own = [
    'RECIPE_INDEX',
    'RECIPE_WINDOWS',
    'PATCH_RANGE',
    'PATCH_LENGTH',
    'PATCH_STREAM',
    'PATCH_PIECE',
  ];
  const wanted = [...codes, ...own].map(
    code => `${code.startsWith('RECIPE') ? 'recipe' : 'patch'} SITECAST_${code}`,
  );
  expect([...outcomes.keys()]).toEqual(expect.arrayContaining(['recipe done', 'patch done', ...wanted]));
});
