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

/** Times in a row that the agent may end in the middle of patches of one recipe, with nothing made of them, before it has failed. */
export const MAX_DEATHS = 2;
/** The note is written ahead of what is spent: by that part of the bound, and at most that many bytes. */
const STEPS_OF_BOUND = 64;
const STEP_BYTES = 4 * 1024 * 1024;
const MIN_STEP_BYTES = 64 * 1024;
/** Likewise for the time of patches, milliseconds: by a part of the bound, and at most that much. */
const STEPS_OF_APPLYING = 8;
const MAX_STEP_APPLY_MS = 5000;

/** Undefined: no bound. */
interface SpendingBounds {
  /** Bytes that one image may cost. */
  maxBytes: number | undefined;
  /** CPU time of its patches, milliseconds. It says how far the note goes ahead. */
  maxApplyMs?: number | undefined;
}

/** No more bytes may be spent. */
export class OverBound extends Error {
  override readonly name = 'OverBound';
}

/**
 * What one image has cost this device so far: restarts, failed patches and given-up attempts included. It is kept in a file, so that
 * neither a SIGKILL nor a power cut makes it exceed a bound: the file is always ahead of what was spent. What was really counted stands beside
 * that, and is shown. A file that is lost counts from 0.
 */
export class Spending {
  readonly #path: string;
  readonly #files: Pick<DurableFiles, 'replace'>;
  readonly #maxBytes: number;
  readonly #stepApplyMs: number;
  #noted: Noted | undefined;
  /** The file, where this process has written it. */
  #durable: string | undefined;
  /** What was counted. In memory: exact for this process. */
  #spentBytes: number;
  /** What may have come besides when an earlier process was killed. It counts against the bound. */
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

  /** As far as they were counted. */
  get spentBytes(): number {
    return this.#spentBytes;
  }
  /** What may have come besides, when an agent was killed in the middle. */
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
  /** Whether one more may be fetched. */
  get hasRecipesLeft(): boolean {
    return (this.#noted?.recipes ?? []).length < MAX_RECIPES;
  }
  /** How often in a row the agent has ended in the middle of the patches of this recipe, with nothing made of them. */
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

  /** What is spent from now on is for this image. Another one before it is forgotten. */
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
   * Does work for which a server sends at most so many bytes. That they may be spent is noted durably beforehand; what it then says that
   * was sent is spent, whether the work succeeds or not. Where they exceed the bound together with what other work may still be sent,
   * it waits until that has come for less.
   * @param signal ends the waiting
   * @throws OverBound where they would exceed the bound; the reason of `signal`; what the work throws
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

  /** Waits until so many bytes may be asked for. @throws OverBound where they would exceed the bound; the reason of `signal` */
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

  /** Work is over that so many bytes were admitted for. */
  #settle(lengthBytes: number): void {
    this.#inFlightBytes -= lengthBytes;
    for (const resolve of this.#settled.splice(0)) resolve();
  }

  /** Waits until other work is over. @throws the reason of `signal` */
  async #nextSettled(signal: AbortSignal | undefined): Promise<void> {
    const over = new AbortController();
    await new Promise<void>(resolve => {
      this.#settled.push(resolve);
      signal?.addEventListener('abort', () => resolve(), { signal: over.signal });
    });
    over.abort();
    signal?.throwIfAborted();
  }

  /** Spent, and what may be by now. */
  get #reservedBytes(): number {
    return this.#spentBytes + this.#uncountedBytes + this.#inFlightBytes;
  }

  /** Durable once it returns. @param isAtMost it may take less */
  async notePlan(plannedBytes: number, isAtMost: boolean): Promise<void> {
    await this.#change({ plannedBytes, isPlanAtMost: isAtMost });
  }

  /** Durable once it returns. */
  async noteFailedRecipe(sha256: string): Promise<void> {
    const failedRecipes = [...new Set([...this.failedRecipes, sha256])].slice(-MAX_FAILED_RECIPES);
    await this.#change({ failedRecipes });
  }

  /** That it was fetched. Durable once it returns. */
  async noteRecipe(sha256: string): Promise<void> {
    const { recipes = [] } = this.#noted ?? {};
    if (recipes.includes(sha256)) return;
    await this.#change({ recipes: [...recipes, sha256].slice(-MAX_RECIPES) });
  }

  /** Patches of this recipe are applied from now on. Durable once it returns: if this process ends before `endApplying`, that counts. */
  async beginApplying(recipe: string): Promise<void> {
    await this.#change({ trial: { recipe, deaths: this.deathsOf(recipe), isOpen: true } });
  }

  /** @param hasProgress what they made is durable in the slot, so the next start doesn't begin where this one did */
  async endApplying({ hasProgress }: { hasProgress: boolean }): Promise<void> {
    const { trial } = this.#noted ?? {};
    if (!trial) return;
    const deaths = hasProgress ? 0 : trial.deaths;
    await this.#changeWherePossible({ trial: { ...trial, deaths, isOpen: false } });
  }

  /**
   * Does work that takes CPU time, and adds the time. A durable note stays ahead of it also while it goes on: by wall time, which is
   * no shorter.
   * @throws what the work throws; its time is in `data.cpuMs`
   */
  async timed<T extends { cpuMs: number }>(work: () => Promise<T>): Promise<T> {
    this.#isApplying = true;
    let timer: NodeJS.Timeout | undefined;
    try {
      await this.#coverApplying(0);
      const beganMs = performance.now();
      timer = setInterval(() => {
        // On a full disk the work goes on: its end is noted, or the next work isn't begun.
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
   * Makes the exact count durable, if it isn't: what was noted ahead and didn't come is given back. On a full disk the note stays ahead of
   * it.
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

  /** @param runningMs of the work that goes on */
  async #coverApplying(runningMs: number): Promise<void> {
    await this.#write(() => {
      const neededMs = this.#applyMs + runningMs;
      const isCovered = (this.#noted?.applyMs ?? 0) >= neededMs + this.#stepApplyMs / 2;
      return isCovered ? undefined : { applyMs: Math.ceil(neededMs + this.#stepApplyMs) };
    });
  }

  /**
   * Makes a note durable that is ahead of what may be spent by now. What was reserved a moment ago isn't asked for: other work may have
   * come for less since.
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
   * One at a time; what is durable already isn't written again.
   * @param changesOf is called when all earlier writes are over, so that none of them takes back what it counts on. Undefined: none
   */
  #write(changesOf: () => Partial<Noted> | undefined): Promise<void> {
    const done = this.#writing.then(async () => {
      const changes = changesOf();
      if (!this.#noted || !changes) return;
      const text = `${JSON.stringify({ ...this.#noted, ...changes })}\n`;
      if (text !== this.#durable) {
        // One that fails may have replaced the file all the same.
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
