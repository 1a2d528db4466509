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

// Who asks: any host of the LAN. The worst: it makes this gateway fetch the recipes that devices of its site need, each once. What it is told
// is no secret, and a device that is told a lie by another gateway fetches chunks that are verified, as it does without deltas. Who holds
// the key of `deltas` can list others each hour: fetching them for this is bounded. However many ask, and whoever, all devices of the site
// are gone through once in a second.

/** Recipes that are fetched to decide about one image take at most this share of its bytes; or that many, which is little anyway. */
const MAX_SHARE_OF_IMAGE = 0.01;
const MIN_RECIPES_BYTES = 64 * 1024;
/** What the devices of the site run is looked at again after so long at the earliest. */
const LOOK_AGAIN_MS = 1000;

/** How devices are to come to a release, for the sake of the site's WAN. */
export type SiteWay = 'deltas' | 'chunks';

interface SiteWaysDeps extends SiteUpdates {
  set: () => MirrorSet | undefined;
  /** A mirrored file that is here. */
  local: (target: FoundTarget) => Promise<Uint8Array | undefined>;
  /** Fetches a mirrored file that isn't here. */
  fetch: (target: FoundTarget) => Promise<Uint8Array>;
  /** What lies there costs the WAN nothing any more. */
  cache: { has(id: ChunkId): Promise<boolean> };
  /** Milliseconds on a clock that never goes back. Default: that of the process. */
  now?: () => number;
}

/** A delta that devices of the site can use. */
interface DeltaBase {
  recipe: FoundTarget;
  patchIndex: FoundTarget;
  /** The index of the release that it leads from. */
  release: FoundTarget;
  /** That these devices have. */
  encoders: readonly string[];
}

/** What the devices of the site run, at one time. */
interface Look {
  readonly wanted: readonly Wanted[];
  /** What was asked about since, by the index of the release that the deltas lead to. */
  readonly bases: Map<string, ReadonlyMap<string, DeltaBase>>;
}

/** What the devices of one release take for an update, over the WAN. */
interface BaseCosts {
  /** What tells its recipe apart. */
  key: string;
  /** Patches, and the files that lead to them: they serve these devices alone. */
  deltaBytes: number;
  /** By the number of a chunk of the target: 1 where it is fetched beside the patches. Chunks serve all devices. */
  rest: Uint8Array;
  /** The same without patches. */
  lacking: Uint8Array;
  /** Bytes of the frames of what is lacking, and of its plain chunks. */
  frameBytes: number;
  plainBytes: number;
}

/**
 * Decides whether the devices of this site use deltas to a release: patches serve the devices of one release alone, chunks serve all. So
 * where devices run many releases, the chunks may cost the WAN less than all patches together. What was decided for a delta stays: its
 * devices may have begun.
 */
export class SiteWays {
  readonly #deps: SiteWaysDeps;
  readonly #decided = new Map<string, SiteWay>();
  readonly #inTurn = pLimit(1);
  readonly #looks: LruCache<MirrorSet, Look>;
  /** By recipe, what is being found out: those who ask meanwhile get the same, so no more wait than recipes are listed. */
  readonly #pending = new Map<string, Promise<SiteWay>>();
  /** Bytes of recipes that were fetched, by the images that they lead to. */
  readonly #fetchedBytes = new Map<string, number>();
  /** Of the set that was asked about last. */
  #set: MirrorSet | undefined;
  #byName: ReadonlyMap<string, FoundTarget> = new Map();

  constructor(deps: SiteWaysDeps) {
    this.#deps = deps;
    this.#looks = lruCache({ max: 1, ttl: LOOK_AGAIN_MS, now: deps.now });
  }

  /** By which way devices are to go that run `from`. `deltas` where nothing is known against it. */
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
    // One delta alone is nothing to decide about: it is only made where it pays.
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

  /** Of the releases that devices of the site have reported: those from which there is a delta that they leave alone if told so. By recipes. */
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
        // Where one takes the delta in any case, the others do as well: its bytes come once.
        if (!base.takesSiteWay) taken.add(hashOf(delta.recipe));
      }
    }
    for (const key of taken) found.delete(key);
    return found;
  }

  /** @returns undefined where there is none that they can use. A device that hasn't been heard may be away for long: nothing is fetched for its sake */
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

  /** `deltas` where a file can't be had, or is of a later format. */
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

  /** By the number of a chunk that any of them lacks: 1 where it is cached. */
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
  // A recipe that claims more than frames can have would make chunks seem dear.
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

/** Of the releases that nothing is decided for: what their deltas take, against what chunks for all of them take. */
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
