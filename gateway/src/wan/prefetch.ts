import { type ChunkId, ChunkIndex, type ChunkStore, eachId } from '@sitecast/shared/content';
import { applicableWith, decodeRecipe, MAX_RECIPE_BYTES, RECIPE_FORMAT } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import { usesRecipes } from '@sitecast/shared/fleet';
import { indexTarget, parseTargetName, patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import type { FoundTarget } from '@sitecast/shared/trust';
import { Backoff, sleep } from '@sitecast/shared/async';
import type { Log } from '@sitecast/shared/log';
import { inForce, type MirrorSet } from '../mirror/mirror-set.ts';
import { type Base, type SiteUpdates, type Wanted, wantedUpdates } from './wanted-updates.ts';
import { type HeldDelta, joined, planUpdate, type UpdatePlan } from './update-plan.ts';

/** At most this share of the cache is fetched ahead, counted in plain bytes. */
const MAX_SHARE_OF_CACHE = 0.5;
/** Chunks fetched ahead at one time. Chunks that devices ask for go first. */
const AT_ONCE = 4;
/** How often it checks whether devices wait. */
const DEVICES_FIRST_MS = 5;
/** How often it checks what is wanted: devices come, quiet hours end. */
const LOOK_EVERY_MS = 2000;
/** Where no source gives so many chunks of a release, the rest of it waits for another round. */
const MAX_UNHAD = 16;
const MIN_BACKOFF_MS = 5000;
const MAX_BACKOFF_MS = 10 * 60_000;

interface PrefetchDeps extends SiteUpdates {
  set: () => MirrorSet | undefined;
  /** A mirrored file that is here. */
  local: (target: FoundTarget) => Promise<Uint8Array | undefined>;
  /** Fetches a mirrored file that isn't here. */
  fetch: (target: FoundTarget) => Promise<Uint8Array>;
  cache: { has(id: ChunkId): Promise<boolean>; readonly isFull: boolean };
  /** Whether a mirrored index names a chunk: no other is fetched. */
  isAllowed: (id: ChunkId) => boolean;
  /** Fetches what it gives, and keeps it. */
  chunks: Pick<ChunkStore, 'get'>;
  /** Whether chunks that devices ask for wait for their turn. */
  isBusy: () => boolean;
  mayPrefetch: () => boolean;
  /** Whether the WAN has a rate: then each byte counts. */
  isPaced: () => boolean;
  /**
   * Whether devices of the site may soon say that they hold an image: then its chunks come from them.
   * @param image SHA-256 of its chunk index, in hex; @param count its chunks
   */
  isTooEarly: (image: string, count: number) => boolean;
  cacheBytes: number;
  now: () => number;
  log: Log;
}

type Targets = ReadonlyMap<string, FoundTarget>;

/** How devices come to a release. */
interface UpdateWay {
  listed: ListedDelta | undefined;
  /** Encoders of the recipe that they have; undefined: by chunks. */
  usable: string[] | undefined;
}

/** A delta as it is listed. */
interface ListedDelta {
  recipe: FoundTarget;
  patchIndex: FoundTarget;
}

/**
 * Fetches before the first device asks what the devices of this site will need for active rollouts: the patches of deltas from the
 * releases that they run, and chunks that neither these nor a patch give.
 */
export class Prefetch {
  readonly #deps: PrefetchDeps;
  readonly #backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  /** Bytes of what was fetched, by index, running release and how its devices use the delta. */
  readonly #done = new Map<string, number>();
  /** The encoders that recipes name, by their hashes; undefined where one can't be read. */
  readonly #encoders = new Map<string, readonly string[] | undefined>();
  /** Rollouts that were under way when this gateway started: devices may hold their images already. */
  #older: ReadonlySet<string> | undefined;

  constructor(deps: PrefetchDeps) {
    this.#deps = deps;
  }

  /** Returns when the signal comes. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let waitMs = LOOK_EVERY_MS;
      try {
        await this.#round(signal);
        this.#backoff.reset();
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof SitecastError)) throw error;
        waitMs = this.#backoff.next();
        this.#deps.log.info(
          { code: error.code, detail: error.message, waitMs: Math.round(waitMs) },
          'fetching ahead must wait',
        );
      }
      await sleep(waitMs, signal);
    }
  }

  async #round(signal: AbortSignal): Promise<void> {
    const set = this.#deps.set();
    if (!set) return;
    this.#older ??= idsOf(set);
    if (!this.#deps.mayPrefetch()) return;
    const byName = inForce(set.targets);
    this.#forgetUnlisted(byName.values());
    let leftBytes = this.#deps.cacheBytes * MAX_SHARE_OF_CACHE;
    let failure: SitecastError | undefined;
    for (const wanted of wantedUpdates(set, this.#deps)) {
      const image = await this.#imageOf(wanted, byName);
      if (!image) continue;
      const { target, index } = image;
      const { plans, doneBytes } = await this.#plansFor(wanted, { target, index, byName });
      const plan = joined([...plans.values()]);
      leftBytes -= doneBytes + plan.bytes;
      // The newest comes first; what does not fit waits for a device to ask.
      if (leftBytes < 0) break;
      if (plans.size === 0 || this.#mustWait(wanted.rollout.id, target, index)) continue;
      const found = await this.#fetchAll(this.#lacking(plan), signal);
      if (!found.isWhole) return;
      // A chunk that no source has holds up neither the others nor the next release.
      failure ??= found.failure;
      if (!found.failure) this.#noteDone(plans, wanted);
    }
    if (failure) throw failure;
  }

  async #imageOf(
    { product, counter }: Wanted,
    byName: Targets,
  ): Promise<{ target: FoundTarget; index: ChunkIndex } | undefined> {
    const target = byName.get(indexTarget(product, counter));
    const index = target && (await this.#read(target));
    return index && { target, index };
  }

  #noteDone(plans: ReadonlyMap<string, UpdatePlan>, { product, counter }: Wanted): void {
    for (const [key, { bytes }] of plans) this.#done.set(key, bytes);
    this.#deps.log.info({ product, counter }, 'a release was fetched ahead');
  }

  /**
   * What the devices of this site will fetch, by the releases that they run and what they can do. While a delta that devices could use is
   * still being made, what these need isn't fetched where each byte counts, or where that would be the whole image.
   * @returns what isn't fetched yet, by what tells it apart; and bytes of what is
   */
  async #plansFor(
    { rollout, product, counter: to, bases }: Wanted,
    { target, index, byName }: { target: FoundTarget; index: ChunkIndex; byName: Targets },
  ): Promise<{ plans: Map<string, UpdatePlan>; doneBytes: number }> {
    const isPending = Date.parse(rollout.deltasBy ?? '') > this.#deps.now();
    const plans = new Map<string, UpdatePlan>();
    let doneBytes = 0;
    for (const base of bases) {
      const way = await this.#wayOf(base, { product, to }, byName);
      const key = `${hashOf(target)} ${base.from ?? ''} ${way.usable?.join() ?? 'chunks'}`;
      if (plans.has(key)) continue;
      const done = this.#done.get(key);
      doneBytes += done ?? 0;
      const plan =
        done === undefined && (await this.#planOf(index, base, { product, isPending, byName, ...way }));
      if (plan) plans.set(key, plan);
    }
    return { plans, doneBytes };
  }

  /** How devices use the delta, if there is one. */
  async #wayOf(
    { from, ability }: Base,
    { product, to }: { product: string; to: number },
    byName: Targets,
  ): Promise<UpdateWay> {
    const listed = from === undefined ? undefined : listedDelta(byName, { product, from, to });
    return { listed, usable: listed && (await this.#usableEncoders(listed.recipe, ability)) };
  }

  /** @returns undefined where it is to wait for the delta */
  async #planOf(
    index: ChunkIndex,
    { from, ability }: Base,
    {
      product,
      isPending,
      byName,
      listed,
      usable,
    }: UpdateWay & { product: string; isPending: boolean; byName: Targets },
  ): Promise<UpdatePlan | undefined> {
    const target = from === undefined ? undefined : byName.get(indexTarget(product, from));
    const base = target && (await this.#fetchIndex(target));
    const delta = listed && usable && (await this.#delta(listed));
    // Of a device that hasn't been heard since the start it isn't known whether a delta for it is being made.
    const wouldBeWhole = from !== undefined && !base;
    const isAwaiting = isPending && !delta && mayUseDeltas(ability);
    if (isAwaiting && (this.#deps.isPaced() || wouldBeWhole)) return undefined;
    return planUpdate(index, base, delta, delta && applicableWith(delta.recipe.encoders, usable ?? []));
  }

  /** The encoders of a recipe that devices have. @returns undefined where they can't use the recipe, or it can't be had */
  async #usableEncoders(recipe: FoundTarget, ability: Base['ability']): Promise<string[] | undefined> {
    const isTopLevel = recipe.role === 'targets';
    const isUnheard = ability === 'unheard';
    if (!isUnheard && !usesRecipes(ability, { format: RECIPE_FORMAT, isTopLevel })) return undefined;
    const hash = hashOf(recipe);
    if (!this.#encoders.has(hash)) {
      const bytes = await this.#fetched(recipe);
      if (!bytes) return undefined;
      this.#encoders.set(
        hash,
        unlessUnreadable(() => decodeRecipe(bytes).encoders),
      );
    }
    const named = this.#encoders.get(hash)?.filter(name => isUnheard || ability.encoders.includes(name));
    // By their names alone: another order is no other plan.
    return named && [...new Set(named)].sort();
  }

  /** @returns undefined where a file can't be had, or is of a later format: devices of a later version fetch the patches when they ask */
  async #delta({ recipe, patchIndex: listed }: ListedDelta): Promise<HeldDelta | undefined> {
    const bytes = await this.#fetched(recipe);
    const patchIndex = await this.#fetchIndex(listed);
    return bytes && patchIndex && unlessUnreadable(() => ({ recipe: decodeRecipe(bytes), patchIndex }));
  }

  #forgetUnlisted(targets: Iterable<FoundTarget>): void {
    const listed = new Set([...targets].map(hashOf));
    for (const key of this.#done.keys())
      if (!listed.has(key.split(' ').slice(0, 2).join(' '))) this.#done.delete(key);
    for (const hash of this.#encoders.keys()) if (!listed.has(hash)) this.#encoders.delete(hash);
  }

  #mustWait(rollout: string, target: FoundTarget, index: ChunkIndex): boolean {
    const { sha256 = '' } = target.file.hashes;
    return this.#older?.has(rollout) === true && this.#deps.isTooEarly(sha256, index.count);
  }

  /** @returns whether every chunk was asked for; the first error about a chunk */
  async #fetchAll(
    lacking: AsyncGenerator<ChunkId, void>,
    signal: AbortSignal,
  ): Promise<{ isWhole: boolean; failure: SitecastError | undefined }> {
    const unhad: SitecastError[] = [];
    const fetching = Array.from({ length: AT_ONCE }, () => this.#fetchSome(lacking, unhad, signal));
    const ends = await Promise.all(fetching);
    return { isWhole: ends.every(Boolean), failure: unhad[0] };
  }

  async #fetchSome(
    lacking: AsyncGenerator<ChunkId, void>,
    unhad: SitecastError[],
    signal: AbortSignal,
  ): Promise<boolean> {
    const { cache, chunks, isBusy, mayPrefetch } = this.#deps;
    try {
      for (;;) {
        const { value: id } = await lacking.next();
        if (id === undefined) return true;
        while (isBusy() && !signal.aborted) await sleep(DEVICES_FIRST_MS, signal);
        if (signal.aborted || !mayPrefetch() || cache.isFull) return false;
        try {
          await chunks.get(id);
        } catch (error) {
          if (!isAboutChunk(error)) throw error;
          unhad.push(error);
          if (unhad.length >= MAX_UNHAD) return true;
        }
      }
    } finally {
      // If one fails, the others end, too.
      await lacking.return();
    }
  }

  /** The plan's chunks that aren't cached here. */
  async *#lacking({ ids }: UpdatePlan): AsyncGenerator<ChunkId, void> {
    const { cache, isAllowed } = this.#deps;
    for (const id of eachId(ids.bytes()))
      if (isAllowed(id) && !(await cache.has(id))) yield Uint8Array.from(id);
  }

  /** A mirrored file: it is fetched if it isn't here. @returns undefined where it can't be had */
  async #fetched(target: FoundTarget): Promise<Uint8Array | undefined> {
    // No device takes a longer one.
    if (parseTargetName(target.name)?.kind === 'recipe' && target.file.length > MAX_RECIPE_BYTES)
      return undefined;
    try {
      return (await this.#deps.local(target)) ?? (await this.#deps.fetch(target));
    } catch (error) {
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  /** Of patches, or of a release that devices run already. */
  async #fetchIndex(target: FoundTarget): Promise<ChunkIndex | undefined> {
    return decoded(await this.#fetched(target));
  }

  async #read(target: FoundTarget): Promise<ChunkIndex | undefined> {
    return decoded(await this.#deps.local(target));
  }
}

/** @returns undefined for a later format: its chunks are fetched when a device asks */
function decoded(bytes: Uint8Array | undefined): ChunkIndex | undefined {
  return bytes && unlessUnreadable(() => ChunkIndex.decode(bytes));
}

/** @returns undefined where it throws a SitecastError */
function unlessUnreadable<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

function listedDelta(
  byName: Targets,
  name: { product: string; from: number; to: number },
): ListedDelta | undefined {
  const [recipe, patchIndex] = [byName.get(recipeTarget(name)), byName.get(patchIndexTarget(name))];
  return recipe && patchIndex && { recipe, patchIndex };
}

/** Whether devices may use some delta, if there is one. */
function mayUseDeltas(ability: Base['ability']): boolean {
  return ability === 'unheard' || usesRecipes(ability, { format: RECIPE_FORMAT, isTopLevel: false });
}

function idsOf({ rollouts }: MirrorSet): Set<string> {
  return new Set([...rollouts.values()].flatMap(file => file.rollouts.map(({ id }) => id)));
}

/** The error is about this chunk alone: others may come all the same. */
function isAboutChunk(error: unknown): error is SitecastError {
  return error instanceof SitecastError && (error.kind === 'notFound' || error.kind === 'untrusted');
}

function hashOf({ name, file }: FoundTarget): string {
  return `${name} ${file.hashes.sha256}`;
}
