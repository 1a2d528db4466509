import { type ChunkId, ChunkIdSet, ChunkIndex, type ChunkStore } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { type Assignment, eligibilityOf, type Rollout, type RolloutsFile } from '@sitecast/shared/fleet';
import { indexTarget } from '@sitecast/shared/release';
import type { FoundTarget } from '@sitecast/shared/trust';
import { Backoff, sleep } from '@sitecast/shared/async';
import type { Log } from '@sitecast/shared/log';
import type { MirrorSet } from '../mirror/mirror-set.ts';

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
  /** A mirrored file that is here. */
  local: (target: FoundTarget) => Promise<Uint8Array | undefined>;
  cache: { has(id: ChunkId): Promise<boolean>; readonly isFull: boolean };
  /** Whether a mirrored index names a chunk: no other is fetched. */
  isAllowed: (id: ChunkId) => boolean;
  /** Fetches what it gives, and keeps it. */
  chunks: Pick<ChunkStore, 'get'>;
  /** Whether chunks that devices ask for wait for their turn. */
  isBusy: () => boolean;
  mayPrefetch: () => boolean;
  /**
   * Whether devices of the site may soon say that they hold an image: then its chunks come from them.
   * @param image SHA-256 of its chunk index, in hex; @param count its chunks
   */
  isTooEarly: (image: string, count: number) => boolean;
  cacheBytes: number;
  log: Log;
}

interface Wanted {
  rollout: string;
  product: string;
  counter: number;
  baseline: number | undefined;
}

/**
 * Fetches the chunks of active rollouts before the first device asks, where a device of this site is in the rollout. Chunks that the
 * release before has are left out: devices take them from their own slot.
 */
export class Prefetch {
  readonly #deps: PrefetchDeps;
  readonly #backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  /** Indexes whose chunks were all fetched, by hash. */
  #done = new Set<string>();
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
    this.#older ??= new Set(
      [...set.rollouts.values()].flatMap(({ rollouts }) => rollouts.map(({ id }) => id)),
    );
    if (!this.#deps.mayPrefetch()) return;
    const byName = new Map([...set.targets.values()].map(target => [target.name, target]));
    this.#forgetUnlisted(byName.values());
    let leftBytes = this.#deps.cacheBytes * MAX_SHARE_OF_CACHE;
    let failure: SitecastError | undefined;
    for (const { rollout, product, counter, baseline } of this.#wanted(set)) {
      const target = byName.get(indexTarget(product, counter));
      const index = target && (await this.#read(target));
      if (!target || !index) continue;
      leftBytes -= index.lengthBytes;
      // The newest comes first; what does not fit waits for a device to ask.
      if (leftBytes < 0) break;
      if (this.#isDoneOrMustWait(rollout, target, index)) continue;
      const before = await this.#before(byName, product, baseline);
      const found = await this.#fetchAll(this.#lacking(index, before), signal);
      if (!found.isWhole) return;
      // A chunk that no source has holds up neither the others nor the next release.
      failure ??= found.failure;
      if (!found.failure) this.#noteDone(target, product, counter);
    }
    if (failure) throw failure;
  }

  #noteDone(target: FoundTarget, product: string, counter: number): void {
    this.#done.add(hashOf(target));
    this.#deps.log.info({ product, counter }, 'a release was fetched ahead');
  }

  #forgetUnlisted(targets: Iterable<FoundTarget>): void {
    const listed = new Set([...targets].map(hashOf));
    this.#done = new Set([...this.#done].filter(hash => listed.has(hash)));
  }

  #isDoneOrMustWait(rollout: string, target: FoundTarget, index: ChunkIndex): boolean {
    const { sha256 = '' } = target.file.hashes;
    if (this.#done.has(hashOf(target))) return true;
    return this.#older?.has(rollout) === true && this.#deps.isTooEarly(sha256, index.count);
  }

  *#wanted({ rollouts }: MirrorSet): Generator<Wanted> {
    for (const file of rollouts.values()) {
      const devices = [...this.#deps.devicesOf(file.product)];
      for (const rollout of [...file.rollouts].reverse()) {
        if (rollout.state !== 'active' || !devices.some(device => isFor(rollout, device))) continue;
        yield {
          rollout: rollout.id,
          product: file.product,
          counter: rollout.release.counter,
          baseline: baselineOf(file),
        };
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

  /** The image's chunks that are neither cached here nor in the release before. */
  async *#lacking(index: ChunkIndex, before: ChunkIndex | undefined): AsyncGenerator<ChunkId, void> {
    const had = new ChunkIdSet();
    for (const { id } of before?.places() ?? []) had.add(id);
    const { cache, isAllowed } = this.#deps;
    for (const { id } of index.places())
      if (!had.has(id) && isAllowed(id) && !(await cache.has(id))) yield Uint8Array.from(id);
  }

  /** The index of the release that devices run already. */
  async #before(
    byName: ReadonlyMap<string, FoundTarget>,
    product: string,
    counter: number | undefined,
  ): Promise<ChunkIndex | undefined> {
    const target = counter === undefined ? undefined : byName.get(indexTarget(product, counter));
    return target && (await this.#read(target));
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

/** The error is about this chunk alone: others may come all the same. */
function isAboutChunk(error: unknown): error is SitecastError {
  return error instanceof SitecastError && (error.kind === 'notFound' || error.kind === 'untrusted');
}

/** Whether a device is in the rollout, at this stage or a later one. This gateway does not know which release the device runs. */
function isFor(rollout: Rollout, assignment: Assignment): boolean {
  const bootedCounter = rollout.match.fromCounter?.min ?? 0;
  return eligibilityOf(rollout, { assignment, bootedCounter }) !== 'noMatch';
}

/** The release that most devices run: that of the newest completed rollout. */
function baselineOf({ rollouts }: RolloutsFile): number | undefined {
  return rollouts.findLast(({ state }) => state === 'completed')?.release.counter;
}

function hashOf({ name, file }: FoundTarget): string {
  return `${name} ${file.hashes.sha256}`;
}
