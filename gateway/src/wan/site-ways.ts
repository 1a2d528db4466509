import { type ChunkId, ChunkIndex, FRAME_OVERHEAD_BYTES } from '@sitecast/shared/content';
import {
  applicableWith,
  decodeRecipe,
  type Recipe,
  RECIPE_FORMAT,
  windowsOf,
  zeroChunks,
} from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import { usesRecipes } from '@sitecast/shared/fleet';
import { type DeltaName, indexTarget, patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import { lruCache, type LruCache } from '@sitecast/shared/bounded';
import type { FoundTarget } from '@sitecast/shared/trust';
import pLimit from 'p-limit';
import { inForce, type MirrorSet } from '../mirror/mirror-set.ts';
import { hashOf, unlessUnreadable } from './listed-deltas.ts';
import { type Base, type SiteUpdates, type Wanted, wantedUpdates } from './wanted-updates.ts';

// Who asks: any host of the LAN. The worst: it makes this gateway fetch the recipes that devices of its site need, each once. The answer is
// no secret, and a device that gets a wrong one from another gateway fetches verified chunks, as it does without deltas. The holder of the
// key of `deltas` can list other recipes each hour, but the fetches for this purpose are bounded. However many ask, the devices of the site
// are gone through only once a second.

/**
 * To decide about one image, recipes with at most this share of its bytes are fetched; or at least MIN_RECIPES_BYTES, which is little
 * anyway.
 */
const MAX_SHARE_OF_IMAGE = 0.01;
const MIN_RECIPES_BYTES = 64 * 1024;
/** How long the list of what devices run is reused. */
const LOOK_AGAIN_MS = 1000;

/** Which way devices should use to a release, for the sake of the site's WAN. */
export type SiteWay = 'deltas' | 'chunks';

interface SiteWaysDeps extends SiteUpdates {
  set: () => MirrorSet | undefined;
  /** A mirrored file that is here. */
  local: (target: FoundTarget) => Promise<Uint8Array | undefined>;
  /** Fetches a mirrored file that isn't here. */
  fetch: (target: FoundTarget) => Promise<Uint8Array>;
  /** Cached chunks cost the WAN nothing. */
  cache: { has(id: ChunkId): Promise<boolean> };
  /** Milliseconds on a clock that never goes back. Default: that of the process. */
  now?: () => number;
}

/** A delta that devices of the site can use. */
interface DeltaBase {
  recipe: FoundTarget;
  patchIndex: FoundTarget;
  /** The index of the base release. */
  release: FoundTarget;
  /** Encoders that these devices have. */
  encoders: readonly string[];
}

/** What the devices of the site run at one time. */
interface Look {
  readonly wanted: readonly Wanted[];
  /** Answers since then, by the index of the target release. */
  readonly bases: Map<string, ReadonlyMap<string, DeltaBase>>;
}

/** What the devices of one release fetch over the WAN for an update. */
interface BaseCosts {
  /** What tells its recipe apart. */
  key: string;
  /** Bytes of patches and their files, which only these devices use. */
  deltaBytes: number;
  /** By chunk number of the target: 1 if it is fetched in addition to patches. Chunks serve all devices. */
  rest: Uint8Array;
  /** The same without patches. */
  lacking: Uint8Array;
  /** Bytes of the missing chunks' frames, and of the chunks. */
  frameBytes: number;
  plainBytes: number;
}

/**
 * Decides whether the devices of this site use deltas to a release. Patches serve only devices of one release, while chunks serve all: if
 * devices run many releases, the chunks may cost the WAN less than all patches together. A decision about a delta stays, because its
 * devices may have begun.
 */
export class SiteWays {
  readonly #deps: SiteWaysDeps;
  readonly #decided = new Map<string, SiteWay>();
  readonly #inTurn = pLimit(1);
  readonly #looks: LruCache<MirrorSet, Look>;
  /** By recipe, decisions that are being made. All who ask meanwhile get the same one, so there are no more waits than listed recipes. */
  readonly #pending = new Map<string, Promise<SiteWay>>();
  /** Bytes of recipes that were fetched, by the images that they lead to. */
  readonly #fetchedBytes = new Map<string, number>();
  /** The set of the latest question. */
  #set: MirrorSet | undefined;
  #byName: ReadonlyMap<string, FoundTarget> = new Map();

  constructor(deps: SiteWaysDeps) {
    this.#deps = deps;
    this.#looks = lruCache({ max: 1, ttl: LOOK_AGAIN_MS, now: deps.now });
  }

  /** Which way devices that run `from` should use. `deltas` unless there is a reason against it. */
  async wayOf(name: DeltaName): Promise<SiteWay> {
    const { key, known } = this.#listed(name) ?? {};
    if (key === undefined) return 'deltas';
    if (known) return known;
    const pending = this.#pending.get(key) ?? this.#inTurn(() => this.#wayOf(name));
    this.#pending.set(key, pending);
    try {
      return await pending;
    } finally {
      this.#pending.delete(key);
    }
  }

  /** @returns undefined where no such delta is listed now */
  #listed(name: DeltaName): { set: MirrorSet; key: string; known: SiteWay | undefined } | undefined {
    const set = this.#deps.set();
    if (!set) return undefined;
    this.#follow(set);
    const recipe = this.#byName.get(recipeTarget(name));
    if (!recipe) return undefined;
    const key = hashOf(recipe);
    return { set, key, known: this.#decided.get(key) };
  }

  async #wayOf(name: DeltaName): Promise<SiteWay> {
    // The set may have changed meanwhile.
    const listed = this.#listed(name);
    if (!listed) return 'deltas';
    const { set, key, known } = listed;
    if (known) return known;
    const bases = this.#bases(set, name);
    // A single delta needs no decision: it is only made if it pays.
    if (bases.size < 2 || !bases.has(key)) return 'deltas';
    const way = await this.#cheaperWay(name, [...bases.values()]);
    this.#decided.set(key, way);
    return way;
  }

  #follow(set: MirrorSet): void {
    if (this.#set === set) return;
    this.#set = set;
    this.#byName = inForce(set.targets);
    const listed = new Set([...this.#byName.values()].map(hashOf));
    for (const key of this.#decided.keys()) if (!listed.has(key)) this.#decided.delete(key);
    for (const key of this.#fetchedBytes.keys()) if (!listed.has(key)) this.#fetchedBytes.delete(key);
  }

  #look(set: MirrorSet): Look {
    const known = this.#looks.get(set);
    if (known) return known;
    const look: Look = { wanted: [...wantedUpdates(set, this.#deps)], bases: new Map() };
    this.#looks.set(set, look);
    return look;
  }

  /** The deltas from releases that devices of the site have reported, if these devices follow this gateway's advice. By recipes. */
  #bases(set: MirrorSet, to: Pick<DeltaName, 'product' | 'to'>): ReadonlyMap<string, DeltaBase> {
    const { wanted, bases } = this.#look(set);
    const name = indexTarget(to.product, to.to);
    const found = bases.get(name) ?? this.#basesOf(wanted, to);
    bases.set(name, found);
    return found;
  }

  #basesOf(
    all: readonly Wanted[],
    { product, to }: Pick<DeltaName, 'product' | 'to'>,
  ): ReadonlyMap<string, DeltaBase> {
    const found = new Map<string, DeltaBase>();
    const taken = new Set<string>();
    for (const wanted of all) {
      if (wanted.product !== product || wanted.counter !== to) continue;
      for (const base of wanted.bases) {
        const delta = this.#deltaOf(base, { product, to });
        if (!delta) continue;
        found.set(hashOf(delta.recipe), delta);
        // If one device uses the delta in any case, the others use it, too: its bytes come once.
        if (!base.takesSiteWay) taken.add(hashOf(delta.recipe));
      }
    }
    for (const key of taken) found.delete(key);
    return found;
  }

  /**
   * @returns undefined where there is no delta that they can use. For a device that hasn't been heard nothing is fetched, as it may be
   * away for long
   */
  #deltaOf(
    { from, ability }: Base,
    { product, to }: Pick<DeltaName, 'product' | 'to'>,
  ): DeltaBase | undefined {
    if (from === undefined || ability === undefined || ability === 'unheard') return undefined;
    const name = { product, from, to };
    const recipe = this.#byName.get(recipeTarget(name));
    const patchIndex = this.#byName.get(patchIndexTarget(name));
    const release = this.#byName.get(indexTarget(product, from));
    if (!recipe || !patchIndex || !release) return undefined;
    const isTopLevel = recipe.role === 'targets';
    if (!usesRecipes(ability, { format: RECIPE_FORMAT, isTopLevel })) return undefined;
    return { recipe, patchIndex, release, encoders: ability.encoders };
  }

  /** `deltas` where a file can't be fetched, or is of a later format. */
  async #cheaperWay({ product, to }: DeltaName, bases: readonly DeltaBase[]): Promise<SiteWay> {
    const image = this.#byName.get(indexTarget(product, to));
    const target = await this.#index(image);
    if (!image || !target) return 'deltas';
    const all: BaseCosts[] = [];
    for (const delta of bases) {
      const recipe = await this.#recipe(delta.recipe, {
        image: hashOf(image),
        imageBytes: target.lengthBytes,
      });
      const base = recipe && (await this.#index(delta.release));
      const costs = base && costsOf({ ...delta, target, base, recipe, listed: delta.recipe });
      if (costs) all.push(costs);
    }
    return cheaperWay(target, all, { decided: this.#decided, isHere: await this.#cached(target, all) });
  }

  /** By chunk number: 1 if any of them lacks it and it is cached. */
  async #cached(target: ChunkIndex, all: readonly BaseCosts[]): Promise<Uint8Array> {
    const isHere = new Uint8Array(target.count);
    for (const { lacking } of all) mark(isHere, lacking);
    for (let at = 0; at < target.count; at += 1)
      if (isHere[at] === 1 && !(await this.#deps.cache.has(target.idAt(at)))) isHere[at] = 0;
    return isHere;
  }

  async #index(target: FoundTarget | undefined): Promise<ChunkIndex | undefined> {
    const bytes = target && (await this.#file(target));
    return bytes && unlessUnreadable(() => ChunkIndex.decode(bytes));
  }

  async #recipe(
    target: FoundTarget,
    { image, imageBytes }: { image: string; imageBytes: number },
  ): Promise<Recipe | undefined> {
    let bytes = await this.#deps.local(target);
    const fetchedBytes = (this.#fetchedBytes.get(image) ?? 0) + target.file.length;
    if (!bytes && fetchedBytes <= Math.max(MIN_RECIPES_BYTES, MAX_SHARE_OF_IMAGE * imageBytes)) {
      this.#fetchedBytes.set(image, fetchedBytes);
      bytes = await this.#file(target);
    }
    return bytes && unlessUnreadable(() => decodeRecipe(bytes));
  }

  /** @returns undefined where it can't be had */
  async #file(target: FoundTarget): Promise<Uint8Array | undefined> {
    try {
      return (await this.#deps.local(target)) ?? (await this.#deps.fetch(target));
    } catch (error) {
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  }
}

/** @returns undefined where the recipe doesn't fit: devices refuse it as well */
function costsOf({
  target,
  base,
  recipe,
  encoders,
  listed,
  patchIndex,
}: Pick<DeltaBase, 'encoders' | 'patchIndex'> & {
  target: ChunkIndex;
  base: ChunkIndex;
  recipe: Recipe;
  /** The recipe's file. */
  listed: FoundTarget;
}): BaseCosts | undefined {
  const windows = unlessUnreadable(() => windowsOf(recipe, base, target));
  if (!windows) return undefined;
  const isZero = zeroChunks(target);
  const lacking = new Uint8Array(target.count);
  let plainBytes = 0;
  for (let at = 0; at < target.count; at += 1) {
    const id = target.idAt(at);
    if (isZero[at] === 1 || target.find(id) !== at || base.find(id) !== undefined) continue;
    lacking[at] = 1;
    plainBytes += target.lengthOf(at);
  }
  const rest = Uint8Array.from(lacking);
  let [deltaBytes, frameBytes] = [listed.file.length + patchIndex.file.length, recipe.restFrameBytes];
  const canApply = applicableWith(recipe.encoders, encoders);
  for (const window of windows) {
    frameBytes += window.frameBytes;
    if (!canApply(window)) continue;
    deltaBytes += window.patchLength;
    rest.fill(0, window.firstChunk, window.firstChunk + window.chunkCount);
  }
  // A recipe that claims more than frames can have would make chunks look expensive.
  const longestBytes = plainBytes + target.count * FRAME_OVERHEAD_BYTES;
  return {
    key: hashOf(listed),
    deltaBytes,
    rest,
    lacking,
    plainBytes,
    frameBytes: Math.min(frameBytes, longestBytes),
  };
}

/** Compares, for the releases without a decision, the bytes of their deltas with the bytes of chunks for all of them. */
function cheaperWay(
  target: ChunkIndex,
  all: readonly BaseCosts[],
  { decided, isHere }: { decided: ReadonlyMap<string, SiteWay>; isHere: Uint8Array },
): SiteWay {
  const [rest, lacking] = [new Uint8Array(target.count), new Uint8Array(target.count)];
  let [patchBytes, frameBytes, plainBytes] = [0, 0, 0];
  for (const base of all) {
    frameBytes += base.frameBytes;
    plainBytes += base.plainBytes;
    const way = decided.get(base.key);
    if (way) mark(isHere, way === 'chunks' ? base.lacking : base.rest);
    else {
      patchBytes += base.deltaBytes;
      mark(rest, base.rest);
      mark(lacking, base.lacking);
    }
  }
  const share = plainBytes === 0 ? 1 : frameBytes / plainBytes;
  const cost = (marked: Uint8Array): number => {
    let bytes = 0;
    for (let at = 0; at < target.count; at += 1)
      if (marked[at] === 1 && isHere[at] === 0) bytes += target.lengthOf(at);
    return share * bytes;
  };
  return cost(lacking) < patchBytes + cost(rest) ? 'chunks' : 'deltas';
}

function mark(marked: Uint8Array, others: Uint8Array): void {
  for (const [at, other] of others.entries()) if (other === 1) marked[at] = 1;
}
