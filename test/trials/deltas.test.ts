import { fuzzDeltas, SYSTEM_ENCODERS } from '@sitecast/shared/delta/testing';
import { expect, it } from 'vitest';

/** Each part begins where the one before ended; `SITECAST_FUZZ_SEED` begins elsewhere. */
const SEED = Number(process.env.SITECAST_FUZZ_SEED ?? 1_000_000);
const PARTS = 12;
const RECIPES = 4_000;
const PATCHES = 6_000;

it('120,000 hostile recipes and patches crash nothing, and stay within their bounds', async () => {
  const outcomes = new Map<string, number>();
  let inThread = 0;
  for (let part = 0; part < PARTS; part += 1) {
    const found = await fuzzDeltas({
      seed: SEED + part * PATCHES,
      recipes: RECIPES,
      patches: PATCHES,
      encoders: SYSTEM_ENCODERS,
    });
    for (const [outcome, count] of found.outcomes)
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + count);
    inThread += found.inThread;
  }
  const total = [...outcomes.values()].reduce((sum, count) => sum + count, 0);
  console.log(`seed ${SEED}: ${total} recipes and patches, ${inThread} of them in the worker thread, too`);
  for (const outcome of [...outcomes.keys()].toSorted())
    console.log(`  ${outcome}: ${outcomes.get(outcome)}`);
  expect(total).toBe(PARTS * (RECIPES + PATCHES));
});
