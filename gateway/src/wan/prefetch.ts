import { type ChunkId, ChunkIndex, type ChunkStore, eachId } from '@sitecast/shared/content';
import { decodeRecipe } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import { type Assignment, eligibilityOf, type Rollout, type RolloutsFile } from '@sitecast/shared/fleet';
import { indexTarget, patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import type { FoundTarget } from '@sitecast/shared/trust';
import { Backoff, sleep } from '@sitecast/shared/async';
import type { Log } from '@sitecast/shared/log';
import type { MirrorSet } from '../mirror/mirror-set.ts';
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

interface PrefetchDeps {
  set: () => MirrorSet | undefined;
  /** The devices of this site. */
  devicesOf: (product: string) => Iterable<Assignment>;
  /** Counter of the release that a device runs; undefined where this gateway doesn't know. */
  runningOf: (id: string) => number | undefined;
  /** A mirrored file that is here. */
  local: (target: FoundTarget) => Promise<Uint8Array | undefined>;
  /** Fetches a mirrored file that isn't here. */
  fetch: (target: FoundTarget) => Promise<unknown>;
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

interface Wanted {
  rollout: Rollout;
  product: string;
  /** Of the release that devices are to install. */
  counter: number;
  /** Counters of the releases that they run; undefined: nothing tells. */
  bases: readonly (number | undefined)[];
}

/**
 * Fetches before the first device asks what the devices of this site will need for active rollouts: the patches of deltas from the
 * releases that they run, and chunks that neither these nor a patch give.
 */
export class Prefetch {
  readonly #deps: PrefetchDeps;
  readonly #backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  /** Bytes of what was fetched, by index and running release. */
  readonly #done = new Map<string, number>();
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
    const byName = targetsByName(set);
    this.#forgetUnlisted(byName.values());
    let leftBytes = this.#deps.cacheBytes * MAX_SHARE_OF_CACHE;
    let failure: SitecastError | undefined;
    for (const wanted of this.#wanted(set)) {
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
    byName: ReadonlyMap<string, FoundTarget>,
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
   * What the devices of this site will fetch, by the releases that they run. While a delta from one of these is still being made, what its
   * devices need isn't fetched where each byte counts, or where that would be the whole image.
   * @returns what isn't fetched yet, by what tells it apart; and bytes of what is
   */
  async #plansFor(
    { rollout, product, counter: to, bases }: Wanted,
    {
      target,
      index,
      byName,
    }: { target: FoundTarget; index: ChunkIndex; byName: ReadonlyMap<string, FoundTarget> },
  ): Promise<{ plans: Map<string, UpdatePlan>; doneBytes: number }> {
    const isPending = Date.parse(rollout.deltasBy ?? '') > this.#deps.now();
    const plans = new Map<string, UpdatePlan>();
    let doneBytes = 0;
    for (const from of bases) {
      const key = `${hashOf(target)} ${from ?? ''}`;
      const done = this.#done.get(key);
      doneBytes += done ?? 0;
      if (done !== undefined) continue;
      const listed = from === undefined ? undefined : byName.get(indexTarget(product, from));
      const base = listed && (await this.#fetchIndex(listed));
      const delta = from === undefined ? undefined : await this.#delta(byName, { product, from, to });
      // Of a device that hasn't been heard since the start it isn't known whether a delta for it is being made.
      const wouldBeWhole = from !== undefined && !base;
      if (!delta && isPending && (this.#deps.isPaced() || wouldBeWhole)) continue;
      plans.set(key, planUpdate(index, base, delta));
    }
    return { plans, doneBytes };
  }

  async #delta(
    byName: ReadonlyMap<string, FoundTarget>,
    name: { product: string; from: number; to: number },
  ): Promise<HeldDelta | undefined> {
    const [recipe, patches] = [byName.get(recipeTarget(name)), byName.get(patchIndexTarget(name))];
    const bytes = recipe && (await this.#deps.local(recipe));
    const patchIndex = patches && (await this.#read(patches));
    try {
      return bytes && patchIndex && { recipe: decodeRecipe(bytes), patchIndex };
    } catch (error) {
      // A later format: devices of a later version fetch the patches when they ask.
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  #forgetUnlisted(targets: Iterable<FoundTarget>): void {
    const listed = new Set([...targets].map(hashOf));
    for (const key of this.#done.keys())
      if (!listed.has(key.slice(0, key.lastIndexOf(' ')))) this.#done.delete(key);
  }

  #mustWait(rollout: string, target: FoundTarget, index: ChunkIndex): boolean {
    const { sha256 = '' } = target.file.hashes;
    return this.#older?.has(rollout) === true && this.#deps.isTooEarly(sha256, index.count);
  }

  *#wanted({ rollouts }: MirrorSet): Generator<Wanted> {
    for (const file of rollouts.values()) {
      const devices = [...this.#deps.devicesOf(file.product)];
      const baseline = baselineOf(file);
      for (const rollout of [...file.rollouts].reverse()) {
        if (rollout.state !== 'active') continue;
        const { counter } = rollout.release;
        const bases = new Set<number | undefined>();
        for (const device of devices) {
          const running = this.#deps.runningOf(device.id);
          if (running !== counter && isFor(rollout, device, running)) bases.add(running ?? baseline);
        }
        if (bases.size > 0) yield { rollout, product: file.product, counter, bases: [...bases] };
      }
    }
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

  /** The index of a release that devices run already: it is fetched if it isn't here. */
  async #fetchIndex(target: FoundTarget): Promise<ChunkIndex | undefined> {
    try {
      await this.#deps.fetch(target);
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
    }
    return this.#read(target);
  }

  async #read(target: FoundTarget): Promise<ChunkIndex | undefined> {
    const bytes = await this.#deps.local(target);
    try {
      return bytes && ChunkIndex.decode(bytes);
    } catch (error) {
      // A later format: its chunks are fetched when a device asks.
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  }
}

function idsOf({ rollouts }: MirrorSet): Set<string> {
  return new Set([...rollouts.values()].flatMap(file => file.rollouts.map(({ id }) => id)));
}

/** The error is about this chunk alone: others may come all the same. */
function isAboutChunk(error: unknown): error is SitecastError {
  return error instanceof SitecastError && (error.kind === 'notFound' || error.kind === 'untrusted');
}

/** Whether a device is in the rollout, at this stage or a later one. @param running counter of the release that it runs, if it is known */
function isFor(rollout: Rollout, assignment: Assignment, running: number | undefined): boolean {
  const bootedCounter = running ?? rollout.match.fromCounter?.min ?? 0;
  return eligibilityOf(rollout, { assignment, bootedCounter }) !== 'noMatch';
}

/** The release that most devices run whose reports haven't told: that of the newest completed rollout. */
function baselineOf({ rollouts }: RolloutsFile): number | undefined {
  return rollouts.findLast(({ state }) => state === 'completed')?.release.counter;
}

/** By name. The top-level targets go before what a delegated role lists under the same name. */
function targetsByName({ targets }: MirrorSet): Map<string, FoundTarget> {
  const byName = new Map<string, FoundTarget>();
  for (const target of targets.values()) if (!byName.has(target.name)) byName.set(target.name, target);
  return byName;
}

function hashOf({ name, file }: FoundTarget): string {
  return `${name} ${file.hashes.sha256}`;
}
