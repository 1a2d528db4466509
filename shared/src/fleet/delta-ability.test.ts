import { describe, expect, it } from 'vitest';
import { DELTA_INVENTORY, deltaAbilityText, fittingEvent, readDeltaAbility } from './index.ts';

const ability = { recipeFormats: [1], encoders: ['zstd-1.5.5-wasm', 'pako-2.2.0'], isSignedOnly: false };

describe('what a device can do with deltas', () => {
  it.each([ability, { ...ability, encoders: [] }, { ...ability, isSignedOnly: true, recipeFormats: [1, 2] }])(
    'is read as it was written',
    each => {
      expect(readDeltaAbility({ [DELTA_INVENTORY]: deltaAbilityText(each) })).toEqual(each);
    },
  );

  it('is nothing for devices that say nothing, or something else', () => {
    for (const said of [undefined, {}, { deltas: 7 }, { deltas: '' }, { deltas: 'zstd-1.5.5-wasm' }])
      expect(readDeltaAbility(said)).toBeUndefined();
  });

  it('fits into an inventory whatever there is, by leaving encoders out', () => {
    const encoders = Array.from({ length: 16 }, (_, at) => `${at}`.padStart(64, 'e'));
    const deltas = deltaAbilityText({ ...ability, encoders });
    const event = { at: '2030-01-01T00:00:00.000Z', timestampVersion: 1, state: 'idle' as const };
    expect(fittingEvent({ ...event, inventory: { deltas } })).toEqual({ ...event, inventory: { deltas } });
    expect(readDeltaAbility({ deltas })).toMatchObject({
      recipeFormats: [1],
      encoders: encoders.slice(0, 3),
    });
  });
});
