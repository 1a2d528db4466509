import { MAX_INVENTORY_VALUE_CHARS } from './report.ts';

/** The entry of a report's inventory that says what a device can do with deltas. */
export const DELTA_INVENTORY = 'deltas';
/**
 * The entry of a report's inventory, `true` where the device leaves deltas alone if the gateway of its site says that chunks cost the WAN less.
 * Absent for a device that pays for bytes itself, or of an earlier version: where there is a delta for it, it takes that.
 */
export const SITE_WAY_INVENTORY = 'takesSiteWay';
const RECIPE = /^recipe-([1-9]\d{0,4})$/;
const SIGNED_ONLY = 'signed-only';

/** What a device can do with deltas: the origin makes them for what the fleet can use. */
export interface DeltaAbility {
  /** Formats of recipes that it reads. */
  recipeFormats: readonly number[];
  /** Encoders that windows may need, by their names in recipes. */
  encoders: readonly string[];
  /** It takes only recipes that offline keys have signed. */
  isSignedOnly: boolean;
}

/** As one entry of an inventory: words such as `recipe-1 zstd-1.5.5-wasm`. What is too long for an entry is left out. */
export function deltaAbilityText({ recipeFormats, encoders, isSignedOnly }: DeltaAbility): string {
  const words = [
    ...recipeFormats.map(format => `recipe-${format}`),
    ...(isSignedOnly ? [SIGNED_ONLY] : []),
    ...encoders,
  ];
  let text = '';
  for (const word of words) {
    const longer = text === '' ? word : `${text} ${word}`;
    if (longer.length <= MAX_INVENTORY_VALUE_CHARS) text = longer;
  }
  return text;
}

/**
 * Whether a device uses recipes of a format.
 * @param isTopLevel the top-level targets list them, so offline keys have signed them
 */
export function usesRecipes(
  ability: DeltaAbility | undefined,
  { format, isTopLevel }: { format: number; isTopLevel: boolean },
): ability is DeltaAbility {
  return ability?.recipeFormats.includes(format) === true && (isTopLevel || !ability.isSignedOnly);
}

/** @returns undefined where the device says nothing: it is an earlier version, or uses none. Unknown words count as encoders */
export function readDeltaAbility(
  inventory: Readonly<Record<string, unknown>> | undefined,
): DeltaAbility | undefined {
  const text = inventory?.[DELTA_INVENTORY];
  if (typeof text !== 'string') return undefined;
  const words = text.split(' ').filter(Boolean);
  const recipeFormats = words.flatMap(word => RECIPE.exec(word)?.[1] ?? []).map(Number);
  if (recipeFormats.length === 0) return undefined;
  const encoders = words.filter(word => word !== SIGNED_ONLY && !RECIPE.test(word));
  return { recipeFormats, encoders, isSignedOnly: words.includes(SIGNED_ONLY) };
}
