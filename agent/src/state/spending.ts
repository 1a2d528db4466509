import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { ReportEvent } from '@sitecast/shared/fleet';
import { type DurableFiles, durableFiles } from './durable-files.ts';
import {
  MAX_FAILED_RECIPES,
  MAX_RECIPES,
  type Noted,
  notePath,
  readNote,
  withDeath,
} from './spending-note.ts';
import type { Status } from './status.ts';

/** How often in a row the agent may end while applying patches of one recipe, without progress, before the recipe counts as failed. */
export const MAX_DEATHS = 2;
/** The note is ahead of the spending by this part of the bound, and at most by STEP_BYTES. */
const STEPS_OF_BOUND = 64;
const STEP_BYTES = 4 * 1024 * 1024;
const MIN_STEP_BYTES = 64 * 1024;
/** The same for the time of patches: a part of the bound, and a maximum in ms. */
const STEPS_OF_APPLYING = 8;
const MAX_STEP_APPLY_MS = 5000;

/** Undefined: no bound. */
interface SpendingBounds {
  /** The bound for one image; undefined: none. */
  maxBytes: number | undefined;
  /** The bound on the CPU time of its patches, in ms. It determines how far the note is ahead. */
  maxApplyMs?: number | undefined;
}

/** Thrown where no more bytes may be spent. */
export class OverBound extends Error {
  override readonly name = 'OverBound';
}

/**
 * What one image has cost this device so far, including restarts, failed patches and given-up attempts. It is stored in a file that is
 * always ahead of the spending, so that neither a SIGKILL nor a power cut leads to more than the bound. The file also has the exact count,
 * which is shown. If the file is lost, the count begins at 0.
 */
export class Spending {
  readonly #path: string;
  readonly #files: Pick<DurableFiles, 'replace'>;
  readonly #maxBytes: number;
  readonly #stepApplyMs: number;
  #noted: Noted | undefined;
  /** The file's content, if this process has written it. */
  #durable: string | undefined;
  /** Counted bytes. In memory, so exact for this process. */
  #spentBytes: number;
  /** Bytes that may have arrived uncounted when an earlier process was killed. They count against the bound. */
  #uncountedBytes: number;
  #applyMs: number;
  #isApplying = false;
  #inFlightBytes = 0;
  #settled: (() => void)[] = [];
  #writing: Promise<void> = Promise.resolve();

  private constructor(
    path: string,
    files: Pick<DurableFiles, 'replace'>,
    { maxBytes, maxApplyMs, noted }: SpendingBounds & { noted: Noted | undefined },
  ) {
    this.#path = path;
    this.#files = files;
    this.#maxBytes = maxBytes ?? Number.POSITIVE_INFINITY;
    this.#stepApplyMs = Math.min(MAX_STEP_APPLY_MS, Math.ceil((maxApplyMs ?? Infinity) / STEPS_OF_APPLYING));
    this.#noted = noted && withDeath(noted);
    const { spentBytes = 0, countedBytes = spentBytes } = noted ?? {};
    this.#spentBytes = Math.min(spentBytes, countedBytes);
    this.#uncountedBytes = spentBytes - this.#spentBytes;
    this.#applyMs = noted?.applyMs ?? 0;
  }

  static async open(
    directory: string,
    { files = durableFiles, ...bounds }: SpendingBounds & { files?: Pick<DurableFiles, 'replace'> },
  ): Promise<Spending> {
    const path = notePath(directory);
    return new Spending(path, files, { ...bounds, noted: await readNote(path) });
  }

  /** The counted bytes. */
  get spentBytes(): number {
    return this.#spentBytes;
  }
  /** Bytes that may have arrived uncounted when an agent was killed. */
  get uncountedBytes(): number {
    return this.#uncountedBytes;
  }
  /** For the status. @returns undefined where nothing was begun */
  get shown(): Status['transfer'] {
    const { counter, version } = this.#noted ?? {};
    const transfer = this.transferOf(counter);
    if (counter === undefined || !transfer) return undefined;
    const uncountedBytes = this.#uncountedBytes;
    return {
      counter,
      ...(version !== undefined && { version }),
      ...transfer,
      ...(uncountedBytes > 0 && { uncountedBytes }),
    };
  }
  get applyMs(): number {
    return this.#applyMs;
  }
  get plannedBytes(): number | undefined {
    return this.#noted?.plannedBytes;
  }
  get failedRecipes(): readonly string[] {
    return this.#noted?.failedRecipes ?? [];
  }
  /** Whether one more recipe may be fetched. */
  get hasRecipesLeft(): boolean {
    return (this.#noted?.recipes ?? []).length < MAX_RECIPES;
  }
  /** How often in a row the agent has ended while applying patches of this recipe, without progress. */
  deathsOf(recipe: string): number {
    const { trial } = this.#noted ?? {};
    return trial?.recipe === recipe ? trial.deaths : 0;
  }
  get isBounded(): boolean {
    return Number.isFinite(this.#maxBytes);
  }
  /** Infinite without a bound. */
  get leftBytes(): number {
    return Math.max(0, this.#maxBytes - this.#spentBytes - this.#uncountedBytes);
  }

  /** For reports. @returns undefined where nothing is known of that release */
  transferOf(counter: number | undefined): ReportEvent['transfer'] {
    if (!this.#noted || counter === undefined || this.#noted.counter !== counter) return undefined;
    const { plannedBytes, isPlanAtMost } = this.#noted;
    return {
      ...(plannedBytes !== undefined && { plannedBytes }),
      ...(isPlanAtMost === true && { isPlanAtMost }),
      spentBytes: this.#spentBytes,
    };
  }

  /** From now on, spending is for this image. The figures of an earlier image are dropped. */
  begin(indexSha256: string, { counter, version }: { counter: number; version: string }): void {
    if (this.#noted?.indexSha256 === indexSha256) return;
    this.#noted = {
      counter,
      version,
      format: 'sitecast-spending-1',
      indexSha256,
      spentBytes: 0,
      applyMs: 0,
      failedRecipes: [],
    };
    this.#spentBytes = 0;
    this.#uncountedBytes = 0;
    this.#applyMs = 0;
  }

  /**
   * Does work for which a server sends at most this many bytes. They are reserved durably beforehand; then the bytes that the work reports
   * as sent count as spent, whether it succeeds or not. If they exceed the bound only because of what other running work has reserved, this
   * waits until that work has ended.
   * @param signal ends the wait
   * @throws OverBound where they would exceed the bound; the reason of `signal`; errors of the work
   */
  async pay<T>(
    lengthBytes: number,
    work: (onSent: (lengthBytes: number) => void) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    await this.#admit(lengthBytes, signal);
    let sentBytes = 0;
    try {
      return await work(sent => {
        sentBytes += sent;
      });
    } finally {
      this.#spentBytes += sentBytes;
      this.#settle(lengthBytes);
    }
  }

  /** Waits until this many bytes may be requested. @throws OverBound where they would exceed the bound; the reason of `signal` */
  async #admit(lengthBytes: number, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    while (this.#reservedBytes + lengthBytes > this.#maxBytes) {
      if (this.#inFlightBytes === 0) throw new OverBound(`${this.#spentBytes} bytes are spent`);
      await this.#nextSettled(signal);
    }
    this.#inFlightBytes += lengthBytes;
    try {
      await this.#cover();
      signal?.throwIfAborted();
    } catch (error) {
      this.#settle(lengthBytes);
      throw error;
    }
  }

  /** Called when work has ended for which this many bytes were reserved. */
  #settle(lengthBytes: number): void {
    this.#inFlightBytes -= lengthBytes;
    for (const resolve of this.#settled.splice(0)) resolve();
  }

  /** Waits until other work has ended. @throws the reason of `signal` */
  async #nextSettled(signal: AbortSignal | undefined): Promise<void> {
    const over = new AbortController();
    await new Promise<void>(resolve => {
      this.#settled.push(resolve);
      signal?.addEventListener('abort', () => resolve(), { signal: over.signal });
    });
    over.abort();
    signal?.throwIfAborted();
  }

  /** Bytes that are spent or reserved. */
  get #reservedBytes(): number {
    return this.#spentBytes + this.#uncountedBytes + this.#inFlightBytes;
  }

  /** Durable when it resolves. @param isAtMost the plan is an upper bound */
  async notePlan(plannedBytes: number, isAtMost: boolean): Promise<void> {
    await this.#change({ plannedBytes, isPlanAtMost: isAtMost });
  }

  /** Durable when it resolves. */
  async noteFailedRecipe(sha256: string): Promise<void> {
    const failedRecipes = [...new Set([...this.failedRecipes, sha256])].slice(-MAX_FAILED_RECIPES);
    await this.#change({ failedRecipes });
  }

  /** Notes that the recipe was fetched. Durable when it resolves. */
  async noteRecipe(sha256: string): Promise<void> {
    const { recipes = [] } = this.#noted ?? {};
    if (recipes.includes(sha256)) return;
    await this.#change({ recipes: [...recipes, sha256].slice(-MAX_RECIPES) });
  }

  /**
   * Notes that patches of this recipe are applied from now on. Durable when it resolves: if this process ends before `endApplying`, that
   * counts.
   */
  async beginApplying(recipe: string): Promise<void> {
    await this.#change({ trial: { recipe, deaths: this.deathsOf(recipe), isOpen: true } });
  }

  /** @param hasProgress some results are durable in the slot, so the next start begins later than this one */
  async endApplying({ hasProgress }: { hasProgress: boolean }): Promise<void> {
    const { trial } = this.#noted ?? {};
    if (!trial) return;
    const deaths = hasProgress ? 0 : trial.deaths;
    await this.#changeWherePossible({ trial: { ...trial, deaths, isOpen: false } });
  }

  /**
   * Does work that takes CPU time, and adds the time. A durable note stays ahead of the time during the work, too: it uses wall time, which
   * is never shorter.
   * @throws errors of the work, with their time in `data.cpuMs`
   */
  async timed<T extends { cpuMs: number }>(work: () => Promise<T>): Promise<T> {
    this.#isApplying = true;
    let timer: NodeJS.Timeout | undefined;
    try {
      await this.#coverApplying(0);
      const beganMs = performance.now();
      timer = setInterval(() => {
        // On a full disk the work goes on: either its end can be noted, or the next work isn't begun.
        this.#coverApplying(performance.now() - beganMs).catch(() => {});
      }, this.#stepApplyMs / 2);
      const done = await work();
      this.#applyMs += Math.ceil(done.cpuMs);
      return done;
    } catch (error) {
      if (error instanceof SitecastError && typeof error.data.cpuMs === 'number')
        this.#applyMs += Math.ceil(error.data.cpuMs);
      throw error;
    } finally {
      clearInterval(timer);
      this.#isApplying = false;
    }
  }

  /**
   * Makes the exact count durable, if it isn't, which frees reserved bytes that weren't sent. On a full disk the note stays ahead.
   */
  async flush(): Promise<void> {
    const { spentBytes, countedBytes, applyMs } = this.#noted ?? {};
    const isExact =
      spentBytes === this.#reservedBytes && countedBytes === this.#spentBytes && applyMs === this.#applyMs;
    if (!isExact) await this.#changeWherePossible({});
  }

  async #changeWherePossible(changes: Partial<Noted>): Promise<void> {
    try {
      await this.#change(changes);
    } catch (error) {
      if (!isSystemError(error)) throw error;
    }
  }

  /** @param runningMs how long the current work has run */
  async #coverApplying(runningMs: number): Promise<void> {
    await this.#write(() => {
      const neededMs = this.#applyMs + runningMs;
      const isCovered = (this.#noted?.applyMs ?? 0) >= neededMs + this.#stepApplyMs / 2;
      return isCovered ? undefined : { applyMs: Math.ceil(neededMs + this.#stepApplyMs) };
    });
  }

  /**
   * Makes a note durable that is ahead of the reserved bytes. These are read just before the write, since other work may have ended
   * meanwhile.
   */
  async #cover(): Promise<void> {
    await this.#write(() => {
      const needed = this.#reservedBytes;
      if ((this.#noted?.spentBytes ?? 0) >= needed) return undefined;
      const step = Math.max(MIN_STEP_BYTES, Math.min(STEP_BYTES, this.#maxBytes / STEPS_OF_BOUND));
      const spentBytes = Math.ceil(Math.max(needed, Math.min(needed + step, this.#maxBytes)));
      return { spentBytes, countedBytes: this.#spentBytes };
    });
  }

  #change(changes: Partial<Noted>): Promise<void> {
    return this.#write(() => ({
      spentBytes: this.#reservedBytes,
      countedBytes: this.#spentBytes,
      ...(this.#isApplying ? {} : { applyMs: this.#applyMs }),
      ...changes,
    }));
  }

  /**
   * Writes one note at a time, and none whose content is durable already.
   * @param changesOf is called when all earlier writes have ended, so that none of them undoes what it is based on. Undefined: no change
   */
  #write(changesOf: () => Partial<Noted> | undefined): Promise<void> {
    const done = this.#writing.then(async () => {
      const changes = changesOf();
      if (!this.#noted || !changes) return;
      const text = `${JSON.stringify({ ...this.#noted, ...changes })}\n`;
      if (text !== this.#durable) {
        // A failed write may have replaced the file nevertheless.
        this.#durable = undefined;
        await this.#files.replace(this.#path, text, 0o600);
        this.#durable = text;
      }
      this.#noted = { ...this.#noted, ...changes };
    });
    this.#writing = done.catch(() => {
      // The caller has got the error.
    });
    return done;
  }
}
