import { type ChunkId, type ChunkIndex, type ChunkStore, eachId } from '@sitecast/shared/content';
import { applicableWith, RECIPE_FORMAT } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import { usesRecipes } from '@sitecast/shared/fleet';
import { indexTarget } from '@sitecast/shared/release';
import type { FoundTarget } from '@sitecast/shared/trust';
import { Backoff, sleep } from '@sitecast/shared/async';
import type { Log } from '@sitecast/shared/log';
import { inForce, type MirrorSet } from '../mirror/mirror-set.ts';
import { DeltaAllowance, type DeltaImage } from './delta-allowance.ts';
import { BEYOND, hashOf, ListedDeltas, type UpdateWay } from './listed-deltas.ts';
import { costOf, joined, planUpdate, type UpdatePlan } from './update-plan.ts';
import { type Base, type SiteUpdates, type Wanted, wantedUpdates } from './wanted-updates.ts';
import type { SiteWays } from './site-ways.ts';

/** At most this share of the cache is fetched ahead, in plain bytes. */
const MAX_SHARE_OF_CACHE = 0.5;
/** How many chunks are fetched ahead at a time. Chunks that devices request come first. */
const AT_ONCE = 4;
/** How often it checks whether devices wait. */
const DEVICES_FIRST_MS = 5;
/** How often it checks what is needed: devices come, quiet hours end. */
const LOOK_EVERY_MS = 2000;
/** After this many chunks of a release that no source has, the rest of it waits for another round. */
const MAX_UNHAD = 16;
const MIN_BACKOFF_MS = 5000;
const MAX_BACKOFF_MS = 10 * 60_000;

interface PrefetchDeps extends SiteUpdates {
  set: () => MirrorSet | undefined;
  /** A mirrored file that is here. */
  local: (target: FoundTarget) => Promise<Uint8Array | undefined>;
  /** Fetches a mirrored file that isn't here. */
  fetch: (target: FoundTarget) => Promise<Uint8Array>;
  /** Tells whether devices use deltas or chunks. */
  siteWays: Pick<SiteWays, 'wayOf'>;
  cache: { has(id: ChunkId): Promise<boolean>; readonly isFull: boolean };
  /** Whether a mirrored index names a chunk: no other is fetched. */
  isAllowed: (id: ChunkId) => boolean;
  /** Fetches a chunk and caches it. */
  chunks: Pick<ChunkStore, 'get'>;
  /** Whether chunks requested by devices wait for their turn. */
  isBusy: () => boolean;
  mayPrefetch: () => boolean;
  /** Whether the WAN has a rate, so that each byte counts. */
  isPaced: () => boolean;
  /**
   * Whether devices of the site may soon announce that they hold an image: then its chunks come from them.
   * @param image SHA-256 of its chunk index, in hex; @param count how many chunks it has
   */
  isTooEarly: (image: string, count: number) => boolean;
  cacheBytes: number;
  now: () => number;
  log: Log;
}

type Targets = ReadonlyMap<string, FoundTarget>;

/** They use chunks, whatever deltas there are or will be. */
const BY_CHUNKS: UpdateWay = { listed: undefined, usable: undefined };

/**
 * Fetches what the devices of this site will need for active rollouts before the first device asks: patches of deltas from the releases
 * that they run, and the other chunks.
 */
export class Prefetch {
  readonly #deps: PrefetchDeps;
  readonly #backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  /** Fetched bytes, by index, running release and use of the delta. */
  readonly #done = new Map<string, number>();
  readonly #allowance: DeltaAllowance;
  readonly #deltas: ListedDeltas;
  /** Rollouts that were under way when this gateway started: devices may hold their images already. */
  #older: ReadonlySet<string> | undefined;

  constructor(deps: PrefetchDeps) {
    this.#deps = deps;
    this.#allowance = new DeltaAllowance(deps.log);
    this.#deltas = new ListedDeltas({ ...deps, allowance: this.#allowance });
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
      // The newest comes first. What doesn't fit is fetched when a device asks.
      if (leftBytes < 0) break;
      if (plans.size === 0 || this.#mustWait(wanted.rollout.id, target, index)) continue;
      const found = await this.#fetchAll(this.#lacking(plan), signal);
      if (!found.isWhole) return;
      // A chunk that no source has delays neither the others nor the next release.
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
    const isHere = target && (await this.#deps.local(target));
    const index = isHere && (await this.#deltas.indexOf(target));
    return index && { target, index };
  }

  #noteDone(plans: ReadonlyMap<string, UpdatePlan>, { product, counter }: Wanted): void {
    for (const [key, { bytes }] of plans) this.#done.set(key, bytes);
    this.#deps.log.info({ product, counter }, 'a release was fetched ahead');
  }

  /**
   * What the devices of this site will fetch, by the releases that they run and their delta abilities. While a usable delta is still being
   * made, nothing is fetched for its devices if each byte counts, or if it would be the whole image.
   * @returns the plans to fetch, by key; and the bytes of those that were fetched
   */
  async #plansFor(
    { rollout, product, counter: to, bases }: Wanted,
    { target, index, byName }: { target: FoundTarget; index: ChunkIndex; byName: Targets },
  ): Promise<{ plans: Map<string, UpdatePlan>; doneBytes: number }> {
    const isPending = Date.parse(rollout.deltasBy ?? '') > this.#deps.now();
    const costBytes = (): number => costOf(planUpdate(index, undefined, undefined));
    const image: DeltaImage = { key: hashOf(target), product, to, costBytes };
    const plans = new Map<string, UpdatePlan>();
    let doneBytes = 0;
    for (const base of bases) {
      const way = (await this.#isByChunks(base, { product, to }))
        ? BY_CHUNKS
        : await this.#deltas.wayOf(base, image, byName);
      if (way === BEYOND) continue;
      const key = `${image.key} ${base.from ?? ''} ${way.usable?.join() ?? 'chunks'}`;
      if (plans.has(key)) continue;
      const done = this.#done.get(key);
      doneBytes += done ?? 0;
      if (done !== undefined) continue;
      const plan = await this.#planOf(index, base, {
        image,
        isPending: isPending && way !== BY_CHUNKS,
        byName,
        ...way,
      });
      // A plan beyond the bounds isn't made again in each round.
      if (plan === BEYOND) this.#done.set(key, 0);
      else if (plan) plans.set(key, plan);
    }
    return { plans, doneBytes };
  }

  /** Whether these devices should use chunks for the sake of the site's WAN. */
  async #isByChunks({ from }: Base, { product, to }: { product: string; to: number }): Promise<boolean> {
    return from !== undefined && (await this.#deps.siteWays.wayOf({ product, from, to })) === 'chunks';
  }

  /** @returns undefined where the plan must wait for the delta */
  async #planOf(
    index: ChunkIndex,
    { from, ability }: Base,
    {
      image,
      isPending,
      byName,
      listed,
      usable,
    }: UpdateWay & { image: DeltaImage; isPending: boolean; byName: Targets },
  ): Promise<UpdatePlan | typeof BEYOND | undefined> {
    const target = from === undefined ? undefined : byName.get(indexTarget(image.product, from));
    const base = target && (await this.#deltas.indexOf(target));
    const delta = listed && usable && (await this.#deltas.held(listed, image));
    if (delta === BEYOND) return BEYOND;
    // For a device that hasn't been heard since the start, it isn't known whether a delta is being made.
    const wouldBeWhole = from !== undefined && !base;
    const isAwaiting = isPending && !delta && mayUseDeltas(ability);
    if (isAwaiting && (this.#deps.isPaced() || wouldBeWhole)) return undefined;
    if (!delta) return planUpdate(index, base, undefined);
    const plan = planUpdate(index, base, delta, applicableWith(delta.recipe.encoders, usable));
    const name = `${hashOf(listed.recipe)} ${usable.join()}`;
    return this.#allowance.admitPatches(image, name, plan.patchCostBytes) ? plan : BEYOND;
  }

  #forgetUnlisted(targets: Iterable<FoundTarget>): void {
    const listed = new Set([...targets].map(hashOf));
    for (const key of this.#done.keys())
      if (!listed.has(key.split(' ').slice(0, 2).join(' '))) this.#done.delete(key);
    this.#deltas.forgetOthers(listed);
  }

  #mustWait(rollout: string, target: FoundTarget, index: ChunkIndex): boolean {
    const { sha256 = '' } = target.file.hashes;
    return this.#older?.has(rollout) === true && this.#deps.isTooEarly(sha256, index.count);
  }

  /** @returns whether every chunk was requested, and the first error about a chunk */
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
  async *#lacking({ ids }: Pick<UpdatePlan, 'ids'>): AsyncGenerator<ChunkId, void> {
    const { cache, isAllowed } = this.#deps;
    for (const id of eachId(ids.bytes()))
      if (isAllowed(id) && !(await cache.has(id))) yield Uint8Array.from(id);
  }
}

/** Whether devices may use some delta, if there is one. */
function mayUseDeltas(ability: Base['ability']): boolean {
  return ability === 'unheard' || usesRecipes(ability, { format: RECIPE_FORMAT, isTopLevel: false });
}

function idsOf({ rollouts }: MirrorSet): Set<string> {
  return new Set([...rollouts.values()].flatMap(file => file.rollouts.map(({ id }) => id)));
}

/** Whether the error is about this chunk only, so that others may succeed. */
function isAboutChunk(error: unknown): error is SitecastError {
  return error instanceof SitecastError && (error.kind === 'notFound' || error.kind === 'untrusted');
}
