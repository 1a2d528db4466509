import { createHash } from 'node:crypto';
import { siteWaySchema } from '@sitecast/shared/api';
import { ChunkIndex } from '@sitecast/shared/content';
import {
  decodeRecipe,
  MAX_PATCH_INDEX_BYTES,
  MAX_RECIPE_BYTES,
  type PlacedWindow,
  type Recipe,
  targetIndexOf,
  windowsOf,
} from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import {
  type DeltaName,
  patchIndexTarget,
  recipeTarget,
  type ReleaseManifest,
} from '@sitecast/shared/release';
import type { Gateway, Log, SlotName } from '../ports.ts';
import type { Spending } from '../state/spending.ts';
import { MAX_FAILED_RECIPES } from '../state/spending-note.ts';
import type { StateFile } from '../state/state-file.ts';
import type { Trust } from '../upstream/trust.ts';
import type { SlotContent, SlotContents } from './slot-contents.ts';

/** `signed-only`: only recipes listed by the top-level targets are used, as these are signed by offline keys. */
export type DeltaMode = 'on' | 'signed-only' | 'off';

/** A recipe that fits this device and a release. */
export interface Delta {
  name: DeltaName;
  recipe: Recipe;
  /** SHA-256 of the recipe's bytes, in hex. */
  sha256: string;
  base: SlotContent;
  /** Length of the target's index according to the manifest, in bytes. */
  indexBytes: number;
}

interface DeltasDependencies {
  product: string;
  mode: DeltaMode;
  /** The CPU time that applying patches may take for one image, in milliseconds. */
  maxApplyMs: number;
  trust: Pick<Trust, 'document' | 'absentBytes'>;
  gateways: { readonly liveliest: Pick<Gateway, 'getJson'> };
  contents: Pick<SlotContents, 'booted'>;
  stateFile: Pick<StateFile, 'current'>;
  spending: Spending;
  log: Log;
}

/** Finds the recipes for this device's updates. Without a recipe, an update uses chunks. */
export class Deltas {
  readonly #deps: DeltasDependencies;

  constructor(deps: DeltasDependencies) {
    this.#deps = deps;
  }

  /**
   * Finds the recipe from the running release to this one. If a gateway doesn't know recipes, or the recipe isn't usable, that is no error:
   * the update uses chunks. Fetched bytes count as spent on the image.
   * @throws the reason of `signal`
   */
  async find(
    { index, image, counter }: Pick<ReleaseManifest, 'index' | 'image' | 'counter'>,
    booted: SlotName,
    signal: AbortSignal,
  ): Promise<Delta | undefined> {
    const { product, mode, trust, spending, contents } = this.#deps;
    if (!this.mayCome(booted, counter)) return undefined;
    const name = { product, from: this.#counterIn(booted), to: counter };
    // A device that pays for bytes uses the way that is cheapest for itself.
    if (!spending.isBounded && (await this.#goesByChunks(name, signal))) return undefined;
    if (!spending.hasRecipesLeft)
      this.#deps.log(
        'info',
        'many recipes were fetched for this release: no new one is, and chunks are fetched',
      );
    try {
      // The holder of an online key may sign a new recipe each hour. One that is stored here is used, however many there were.
      const longestBytes = Math.min(spending.leftBytes, image.lengthBytes, MAX_RECIPE_BYTES);
      const maxBytes = spending.hasRecipesLeft ? longestBytes : 0;
      const isTopLevel = mode === 'signed-only';
      const bytes = await trust.document(recipeTarget(name), signal, {
        isTopLevel,
        maxBytes,
        payer: spending,
      });
      if (!bytes) return undefined;
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      await spending.noteRecipe(sha256);
      if (spending.failedRecipes.includes(sha256)) return undefined;
      const recipe = decodeRecipe(bytes);
      const base = await contents.booted(booted, { worthBytes: image.lengthBytes, signal });
      if (!base) return undefined;
      checkReleases(recipe, name, { base: base.indexSha256, target: index.sha256 });
      return { name, recipe, sha256, base, indexBytes: index.lengthBytes };
    } catch (error) {
      this.#tell('the recipe', error, signal);
      return undefined;
    }
  }

  /**
   * Whether the site's gateway says that chunks cost the site's WAN less than the deltas of all its devices. No more trust in the gateway
   * is needed: chunks lead to the same image.
   */
  async #goesByChunks({ product, from, to }: DeltaName, signal: AbortSignal): Promise<boolean> {
    try {
      const path = `/site/v1/ways/${product}/${from}/${to}`;
      const { status, body } = await this.#deps.gateways.liveliest.getJson(path, signal);
      const { data } = siteWaySchema.safeParse(body);
      // A gateway of an earlier version, or an origin, doesn't know this request.
      const isSo = status === 200 && data?.way === 'chunks';
      if (isSo)
        this.#deps.log(
          'info',
          'no delta is used: the gateway says that chunks cost the WAN of the site less',
        );
      return isSo;
    } catch (error) {
      this.#tell('what the gateway advises', error, signal);
      return false;
    }
  }

  /** Whether a recipe from the running release to this one could be used, if there is one. */
  mayCome(booted: SlotName, counter: number): boolean {
    const from = this.#counterIn(booted);
    return this.#deps.mode !== 'off' && from >= 1 && from !== counter && !this.#isSpent();
  }

  /**
   * Whether the origin may still make a recipe that could be used. It can't where only recipes signed by offline keys may be used.
   * @param counter of the release that is ordered
   */
  mayBeMade(booted: SlotName, counter: number): boolean {
    return this.#deps.mode === 'on' && this.mayCome(booted, counter);
  }

  /** The target's index, rebuilt. @returns undefined where the recipe doesn't give it: then it is fetched */
  targetIndexOf({ recipe, base, indexBytes }: Delta): ChunkIndex | undefined {
    try {
      return targetIndexOf(recipe, base.index, indexBytes);
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      return undefined;
    }
  }

  /** @returns the windows, checked against both images; undefined where they don't fit these */
  windowsOf({ recipe, base }: Delta, target: ChunkIndex): readonly PlacedWindow[] | undefined {
    try {
      return windowsOf(recipe, base.index, target);
    } catch (error) {
      this.#tell('the recipe', error);
      return undefined;
    }
  }

  /**
   * The index of the chunks that hold the patches.
   * @param signal of the cycle; `isKept`: only if an earlier start has fetched it
   * @returns undefined where it can't be fetched
   * @throws the reason of `signal`
   */
  async patchIndexOf(
    { name, recipe }: Delta,
    signal: AbortSignal,
    { isKept = false } = {},
  ): Promise<ChunkIndex | undefined> {
    const { trust, spending } = this.#deps;
    try {
      const maxBytes = isKept ? 0 : Math.min(spending.leftBytes, MAX_PATCH_INDEX_BYTES);
      const bytes = await trust.document(patchIndexTarget(name), signal, { maxBytes, payer: spending });
      if (!bytes || createHash('sha256').update(bytes).digest('hex') !== recipe.patchIndexSha256)
        return undefined;
      return ChunkIndex.decode(bytes);
    } catch (error) {
      this.#tell('the index of the patches', error, signal);
      return undefined;
    }
  }

  /** Bytes of the index of the patches that are still to be fetched. @throws the reason of `signal` */
  async patchIndexBytes({ name }: Pick<Delta, 'name'>, signal: AbortSignal): Promise<number> {
    try {
      return (await this.#deps.trust.absentBytes(patchIndexTarget(name), signal)) ?? 0;
    } catch (error) {
      this.#tell('the index of the patches', error, signal);
      return 0;
    }
  }

  #counterIn(slot: SlotName): number {
    return this.#deps.stateFile.current.slots[slot].release?.counter ?? 0;
  }

  /** Whether no more deltas are tried: two recipes have failed for this image, or applying patches has used up its time. */
  #isSpent(): boolean {
    const { spending, maxApplyMs } = this.#deps;
    return spending.failedRecipes.length >= MAX_FAILED_RECIPES || spending.applyMs >= maxApplyMs;
  }

  #tell(what: string, error: unknown, signal?: AbortSignal): void {
    signal?.throwIfAborted();
    if (!(error instanceof SitecastError)) throw error;
    this.#deps.log('info', `${what} can't be used: ${error.message}`, { code: error.code });
  }
}

/** @throws SITECAST_RECIPE_OTHER */
function checkReleases(recipe: Recipe, name: DeltaName, indexes: { base: string; target: string }): void {
  const { product, from, to } = recipe;
  const isIt =
    product === name.product &&
    from.counter === name.from &&
    to.counter === name.to &&
    from.indexSha256 === indexes.base &&
    to.indexSha256 === indexes.target;
  if (isIt) return;
  throw new SitecastError(
    'badInput',
    'SITECAST_RECIPE_OTHER',
    'the recipe is about other images than its name says',
  );
}
