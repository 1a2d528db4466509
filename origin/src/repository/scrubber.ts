import { parseTargetName } from '@sitecast/shared/release';
import pLimit from 'p-limit';
import { errorFields } from '../log.ts';
import type { After } from '../upkeep.ts';
import { allDeltas, signedDeltas } from './delta-listing.ts';
import { type PublishedFile, publishedFiles, readListing, releasesOf, targetKey } from './listing.ts';
import type { FileRef } from './repository-store.ts';
import { groupsOf, type ReleaseDamage, Survey, type SurveyDeps } from './survey.ts';

/** How often the survey runs, and the least time between two reads of each chunk. */
const SURVEY_INTERVAL_MS = 24 * 3_600_000;
const PASS_INTERVAL_MS = 7 * 24 * 3_600_000;
/** Damage is examined soon, but a failing disk isn't surveyed all the time. */
const MIN_SURVEY_PAUSE_MS = 1000;
const SURVEY_SHARE = 0.05;
const RETRY_MS = 60_000;
/** How many chunks are read back at once: at most 16 MiB. */
const CHUNKS_AT_ONCE = 16;

interface ScrubberDeps extends SurveyDeps {
  /** How much is read back a second; 0: no chunks are. */
  bytesPerS: number;
  now: () => number;
  after: After;
}

class Stopped extends Error {}

/**
 * Looks for published files and chunks that are damaged or lost: slowly through all of them, and at once if one was found or an operator
 * asks.
 */
export class Scrubber {
  readonly #deps: ScrubberDeps;
  readonly #survey: Survey;
  /** Carries out what others ask for, one after the other. */
  readonly #asked = pLimit(1);
  readonly #missing = new Map<string, Promise<boolean>>();
  #surveyedMs = Number.NEGATIVE_INFINITY;
  #surveyPauseMs = MIN_SURVEY_PAUSE_MS;
  #passDueMs = Number.NEGATIVE_INFINITY;
  #hasNews = false;
  #isStopped = false;
  #wake: () => void = () => {};
  #owedBytes = 0;
  #underWay: Promise<void> = Promise.resolve();
  readonly #unsubscribe: () => void;
  /** When every chunk had been read back, milliseconds since 1970; undefined before the first time. */
  completedMs: number | undefined;

  constructor(deps: ScrubberDeps) {
    this.#deps = deps;
    this.#survey = new Survey(deps);
    this.#unsubscribe = deps.repository.onCommit(() => {
      const { damage } = deps.repository;
      if (damage.files === 0 && damage.chunks === 0) return;
      this.#survey.forgetUnlisted();
      this.recheck().catch((error: unknown) => this.#say(error));
    });
  }

  get readBytes(): number {
    return this.#survey.readBytes;
  }

  /** From now on, until `stop`. */
  start(): void {
    this.#underWay = this.#run();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#unsubscribe();
    this.#wake();
    await this.#underWay;
    await this.#asked(() => undefined);
  }

  /** Notes a file whose content doesn't match its name: it is read once more, and set aside. */
  suspect(ref: FileRef): void {
    this.#asked(async () => {
      await this.#survey.lookAt(ref);
      this.#noteNews();
    }).catch((error: unknown) => this.#say(error));
  }

  /**
   * Notes a file that a client has requested and that isn't there. A published file that is lost is noted, and restored if the origin has a
   * second copy. Anyone may request anything, so other files are ignored.
   * @returns whether it is there now
   */
  async lookForMissing(ref: FileRef): Promise<boolean> {
    const { repository } = this.#deps;
    const file = ref.kind === 'target' ? repository.content.listed(ref) : undefined;
    if (!file || repository.damage.hasFile(file.name)) return false;
    const looking = this.#missing.get(targetKey(file)) ?? this.#lookAtMissing(file);
    this.#missing.set(targetKey(file), looking);
    return await looking;
  }

  async #lookAtMissing(file: PublishedFile): Promise<boolean> {
    try {
      return (await this.#survey.lookAtFile(file)) !== undefined;
    } catch (error) {
      this.#say(error);
      return false;
    } finally {
      this.#missing.delete(targetKey(file));
    }
  }

  /**
   * Reads back all that is published of a release, whatever was read before.
   * @returns undefined for one that isn't listed
   */
  checkRelease(product: string, counter: number): Promise<ReleaseDamage | undefined> {
    return this.#asked(async () => {
      const { committed } = this.#deps.repository;
      const release = committed && readListing(committed.targets.signed).releases.get(product)?.get(counter);
      if (!release) return undefined;
      for (const ids of groupsOf(await this.#survey.chunksOf(release), CHUNKS_AT_ONCE)) {
        this.#demandGoingOn();
        await this.#survey.inspect(ids);
      }
      const { chunks, files } = await this.#survey.lookAtRelease(release);
      return { chunks, files };
    });
  }

  /** Examines damaged items again: they may have been restored. */
  recheck(): Promise<void> {
    return this.#asked(async () => {
      const { damage, committed } = this.#deps.repository;
      if (!committed) return;
      await this.#survey.lookAtRoots(committed);
      for (const file of publishedFiles(committed))
        if (damage.hasFile(file.name)) await this.#survey.lookAtFile(file);
      for (const release of releasesOf(committed))
        if (damage.hasRelease(release)) await this.#survey.lookAtRelease(release);
      for (const delta of signedDeltas(committed))
        if (damage.hasDelta(delta)) await this.#survey.lookAtDelta(delta);
    });
  }

  /** Checks that everything published is there. It reads files back, but no chunks. */
  async survey(): Promise<void> {
    const begunMs = performance.now();
    this.#surveyedMs = this.#deps.now();
    this.#hasNews = false;
    const { committed } = this.#deps.repository;
    if (!committed) return;
    await this.#survey.repairMetadata();
    await this.#survey.lookAtRoots(committed);
    for (const file of publishedFiles(committed)) {
      this.#demandGoingOn();
      if (!isLookedAtBelow(file.name)) await this.#survey.lookAtFile(file);
    }
    for (const release of releasesOf(committed)) {
      const { readBytes } = await this.#survey.lookAtRelease(release);
      await this.#pace(readBytes);
    }
    for (const delta of allDeltas(committed)) await this.#pace(await this.#survey.lookAtDelta(delta));
    this.#surveyPauseMs = Math.max(MIN_SURVEY_PAUSE_MS, (performance.now() - begunMs) / SURVEY_SHARE);
  }

  /** Reads all published chunks back, no faster than the set rate. */
  async pass(): Promise<void> {
    const { publishedChunks, log, now } = this.#deps;
    for await (const ids of publishedChunks.list()) {
      for (const group of groupsOf(ids, CHUNKS_AT_ONCE)) {
        const { readBytes, damaged } = await this.#survey.inspect(group);
        if (damaged > 0) this.#noteNews();
        await this.#pace(readBytes);
        if (this.#isSurveyDue()) await this.survey();
      }
    }
    this.completedMs = now();
    log.info({ readBytes: this.readBytes }, 'all published chunks were read back');
  }

  async #run(): Promise<void> {
    while (!this.#isStopped) {
      let pauseMs = SURVEY_INTERVAL_MS;
      try {
        if (this.#isSurveyDue()) await this.survey();
        await this.#passIfDue();
        if (this.#hasNews) pauseMs = this.#surveyPauseMs;
      } catch (error) {
        if (error instanceof Stopped) return;
        this.#say(error);
        pauseMs = RETRY_MS;
      }
      await this.#wait(pauseMs);
    }
  }

  async #passIfDue(): Promise<void> {
    const { now, bytesPerS } = this.#deps;
    const begunMs = now();
    if (bytesPerS === 0 || begunMs < this.#passDueMs) return;
    // A pass that fails starts again the next day.
    this.#passDueMs = begunMs + SURVEY_INTERVAL_MS;
    await this.pass();
    this.#passDueMs = begunMs + PASS_INTERVAL_MS;
  }

  #isSurveyDue(): boolean {
    const sinceMs = Math.abs(this.#deps.now() - this.#surveyedMs);
    return sinceMs >= (this.#hasNews ? this.#surveyPauseMs : SURVEY_INTERVAL_MS);
  }

  #noteNews(): void {
    this.#hasNews = true;
    this.#wake();
  }

  #say(error: unknown): void {
    if (error instanceof Stopped) return;
    this.#deps.log.error(errorFields(error), 'looking for damage failed');
  }

  /** Waits as long as reading this many bytes may take. */
  async #pace(readBytes: number): Promise<void> {
    const { bytesPerS } = this.#deps;
    this.#demandGoingOn();
    this.#owedBytes += readBytes;
    if (bytesPerS === 0 || this.#owedBytes < bytesPerS) return;
    const ms = (1000 * this.#owedBytes) / bytesPerS;
    this.#owedBytes = 0;
    await this.#wait(ms);
    this.#demandGoingOn();
  }

  async #wait(ms: number): Promise<void> {
    if (this.#isStopped) return;
    await new Promise<void>(resolve => {
      const cancel = this.#deps.after(ms, resolve);
      this.#wake = () => {
        cancel();
        resolve();
      };
    });
    this.#wake = () => {};
  }

  #demandGoingOn(): void {
    if (this.#isStopped) throw new Stopped();
  }
}

/** Files of releases and deltas are examined together with their chunks. */
function isLookedAtBelow(name: string): boolean {
  const kind = parseTargetName(name)?.kind;
  return kind !== undefined && kind !== 'product';
}
