import { ChunkIndex } from '@sitecast/shared/content';
import { decodeRecipe, MAX_PATCH_INDEX_BYTES, MAX_RECIPE_BYTES, RECIPE_FORMAT } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import { usesRecipes } from '@sitecast/shared/fleet';
import { patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import type { FoundTarget } from '@sitecast/shared/trust';
import type { DeltaAllowance, DeltaImage } from './delta-allowance.ts';
import type { HeldDelta } from './update-plan.ts';
import type { Base } from './wanted-updates.ts';

/** How devices update to a release. */
export interface UpdateWay {
  listed: ListedDelta | undefined;
  /** The recipe's encoders that they have; undefined: they use chunks. */
  usable: string[] | undefined;
}

/** A delta as it is listed. */
export interface ListedDelta {
  /** Counter of the release that it leads from. */
  from: number;
  recipe: FoundTarget;
  patchIndex: FoundTarget;
}

/** Stands for: no more of the deltas to an image may be fetched ahead. */
export const BEYOND = 'beyond';

interface ListedDeltasDeps {
  /** A mirrored file that is here. */
  local: (target: FoundTarget) => Promise<Uint8Array | undefined>;
  /** Fetches a mirrored file that isn't here. */
  fetch: (target: FoundTarget) => Promise<Uint8Array>;
  allowance: DeltaAllowance;
}

/** The files of deltas that devices of this site can use. Missing ones are fetched, within the allowance. */
export class ListedDeltas {
  readonly #deps: ListedDeltasDeps;
  /** The encoders that recipes name, by their hashes; undefined where one can't be read. */
  readonly #encoders = new Map<string, readonly string[] | undefined>();

  constructor(deps: ListedDeltasDeps) {
    this.#deps = deps;
  }

  /** How devices use the delta to the image, if there is one. */
  async wayOf(
    { from, ability }: Base,
    image: DeltaImage,
    byName: ReadonlyMap<string, FoundTarget>,
  ): Promise<UpdateWay | typeof BEYOND> {
    const { product, to } = image;
    const listed = from === undefined ? undefined : listedDelta(byName, { product, from, to });
    if (!listed) return { listed: undefined, usable: undefined };
    const { recipe } = listed;
    const isUnheard = ability === 'unheard';
    const isTopLevel = recipe.role === 'targets';
    if (!isUnheard && !usesRecipes(ability, { format: RECIPE_FORMAT, isTopLevel }))
      return { listed, usable: undefined };
    const hash = hashOf(recipe);
    if (!this.#encoders.has(hash)) {
      const bytes = await this.#recipe(listed, image);
      if (bytes === BEYOND) return BEYOND;
      if (!bytes) return { listed, usable: undefined };
      this.#encoders.set(
        hash,
        unlessUnreadable(() => decodeRecipe(bytes).encoders),
      );
    }
    const named = this.#encoders.get(hash)?.filter(name => isUnheard || ability.encoders.includes(name));
    // Sorted by name: another order is the same plan.
    return { listed, usable: named && [...new Set(named)].sort() };
  }

  /**
   * @returns undefined where a file can't be fetched, or is of a later format: devices of a later version then fetch the patches when they
   * need them
   */
  async held(listed: ListedDelta, image: DeltaImage): Promise<HeldDelta | typeof BEYOND | undefined> {
    const bytes = await this.#recipe(listed, image);
    const indexBytes = await this.#file(listed.patchIndex, MAX_PATCH_INDEX_BYTES, () =>
      this.#deps.allowance.admitPatchIndex(image, listed.patchIndex),
    );
    if (bytes === BEYOND || indexBytes === BEYOND) return BEYOND;
    const patchIndex = indexBytes && unlessUnreadable(() => ChunkIndex.decode(indexBytes));
    return bytes && patchIndex && unlessUnreadable(() => ({ recipe: decodeRecipe(bytes), patchIndex }));
  }

  /** A release's index; fetched if it is missing. @returns undefined where it can't be fetched or read */
  async indexOf(release: FoundTarget): Promise<ChunkIndex | undefined> {
    const bytes = await this.#file(release, Number.POSITIVE_INFINITY, () => true);
    return bytes === BEYOND ? undefined : bytes && unlessUnreadable(() => ChunkIndex.decode(bytes));
  }

  /** @param listed the hashes of what is */
  forgetOthers(listed: ReadonlySet<string>): void {
    for (const hash of this.#encoders.keys()) if (!listed.has(hash)) this.#encoders.delete(hash);
    this.#deps.allowance.keepOnly(listed);
  }

  #recipe({ recipe, from }: ListedDelta, image: DeltaImage): Promise<Uint8Array | typeof BEYOND | undefined> {
    return this.#file(recipe, MAX_RECIPE_BYTES, () => this.#deps.allowance.admitRecipe(image, from, recipe));
  }

  /** @param maxBytes devices accept no longer file. @returns undefined where it can't be fetched */
  async #file(
    target: FoundTarget,
    maxBytes: number,
    mayFetch: () => boolean,
  ): Promise<Uint8Array | typeof BEYOND | undefined> {
    if (target.file.length > maxBytes) return undefined;
    try {
      const found = await this.#deps.local(target);
      if (found) return found;
      return mayFetch() ? await this.#deps.fetch(target) : BEYOND;
    } catch (error) {
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  }
}

function listedDelta(
  byName: ReadonlyMap<string, FoundTarget>,
  name: { product: string; from: number; to: number },
): ListedDelta | undefined {
  const [recipe, patchIndex] = [byName.get(recipeTarget(name)), byName.get(patchIndexTarget(name))];
  return recipe && patchIndex && { from: name.from, recipe, patchIndex };
}

/** @returns undefined where it throws a SitecastError: a later format, whose chunks are fetched when a device asks */
export function unlessUnreadable<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

/** The key of a listed file. */
export function hashOf({ name, file }: FoundTarget): string {
  return `${name} ${file.hashes.sha256}`;
}
