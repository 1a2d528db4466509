import { join } from 'node:path';
import { readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { ReportEvent } from '@sitecast/shared/fleet';
import { z } from 'zod';
import { type DurableFiles, durableFiles } from './durable-files.ts';
import type { Status } from './status.ts';

const SPENDING_FILE = 'spending.json';
const MAX_SPENDING_BYTES = 64 * 1024;
/** Recipes that may fail for one image. After that it comes by chunks alone. */
export const MAX_FAILED_RECIPES = 2;
/** Times in a row that the agent may end in the middle of patches of one recipe, with nothing made of them, before it has failed. */
export const MAX_DEATHS = 2;
/** Recipes that are fetched for one image. After that no new one is: each costs bytes, whether it is of use or not. */
const MAX_RECIPES = 8;
/** The note is written ahead of what is spent: by that part of the bound, and at most that many bytes. */
const STEPS_OF_BOUND = 64;
const STEP_BYTES = 4 * 1024 * 1024;
const MIN_STEP_BYTES = 64 * 1024;
/** Likewise for the time of patches, milliseconds: by a part of the bound, and at most that much. */
const STEPS_OF_APPLYING = 8;
const MAX_STEP_APPLY_MS = 5000;

const hexId = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.int().min(0);
const spendingSchema = z.looseObject({
  format: z.literal('sitecast-spending-1'),
  /** SHA-256 of the image's index: what the rest is about. */
  indexSha256: hexId,
  /** Of the release. */
  counter: count.optional(),
  version: z.string().optional(),
  /** Bytes that came from gateways for it, at most so many: the note goes ahead of them. */
  spentBytes: count,
  /** Bytes that had been counted when the note was written. Absent in notes of earlier versions. */
  countedBytes: count.optional(),
  /** CPU time of applied patches, milliseconds. */
  applyMs: count,
  /** By the plan that its download began with, what was spent by then among them. */
  plannedBytes: count.optional(),
  /** The plan knew no lengths of frames: it takes at most that. */
  isPlanAtMost: z.boolean().optional(),
  failedRecipes: z.array(hexId).max(MAX_FAILED_RECIPES),
  /** SHA-256 of those that were fetched for it. */
  recipes: z.array(hexId).max(MAX_RECIPES).optional(),
  /** The recipe whose patches were applied last. */
  trial: z
    .looseObject({
      recipe: hexId,
      /** How often in a row an agent has ended in the middle of its patches, with nothing made of them. */
      deaths: count,
      /** Patches are being applied. Where a start of the agent reads that, the one before has ended in the middle. */
      isOpen: z.boolean(),
    })
    .optional(),
});
type Noted = z.infer<typeof spendingSchema>;

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
    const path = join(directory, SPENDING_FILE);
    return new Spending(path, files, { ...bounds, noted: await read(path) });
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
   * was sent is spent, whether the work succeeds or not.
   * @throws OverBound where they would exceed the bound; what the work throws
   */
  async pay<T>(lengthBytes: number, work: (onSent: (lengthBytes: number) => void) => Promise<T>): Promise<T> {
    await this.#admit(lengthBytes);
    let sentBytes = 0;
    try {
      return await work(sent => {
        sentBytes += sent;
      });
    } finally {
      this.#spentBytes += sentBytes;
      this.#inFlightBytes -= lengthBytes;
      for (const resolve of this.#settled.splice(0)) resolve();
    }
  }

  /** Waits until so many bytes may be asked for. @throws OverBound where they would exceed the bound */
  async #admit(lengthBytes: number): Promise<void> {
    while (this.#reservedBytes + lengthBytes > this.#maxBytes) {
      if (this.#inFlightBytes === 0) throw new OverBound(`${this.#spentBytes} bytes are spent`);
      await new Promise<void>(resolve => this.#settled.push(resolve));
    }
    this.#inFlightBytes += lengthBytes;
    try {
      await this.#cover(this.#reservedBytes);
    } catch (error) {
      this.#inFlightBytes -= lengthBytes;
      for (const resolve of this.#settled.splice(0)) resolve();
      throw error;
    }
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
    const isCovered = () => (this.#noted?.applyMs ?? 0) >= this.#applyMs + runningMs + this.#stepApplyMs / 2;
    if (isCovered()) return;
    await this.#write(() =>
      isCovered() ? undefined : { applyMs: Math.ceil(this.#applyMs + runningMs + this.#stepApplyMs) },
    );
  }

  async #cover(spentBytes: number): Promise<void> {
    const covers = () => (this.#noted?.spentBytes ?? 0) >= spentBytes;
    while (this.#noted && !covers()) {
      const step = Math.max(MIN_STEP_BYTES, Math.min(STEP_BYTES, this.#maxBytes / STEPS_OF_BOUND));
      await this.#write(() => {
        const needed = this.#reservedBytes;
        if (covers()) return undefined;
        const spentBytes = Math.ceil(Math.max(needed, Math.min(needed + step, this.#maxBytes)));
        return { spentBytes, countedBytes: this.#spentBytes };
      });
    }
  }

  #change(changes: Partial<Noted>): Promise<void> {
    return this.#write(() => ({
      spentBytes: this.#reservedBytes,
      countedBytes: this.#spentBytes,
      ...(this.#isApplying ? {} : { applyMs: this.#applyMs }),
      ...changes,
    }));
  }

  /** One at a time. */
  #write(changesOf: () => Partial<Noted> | undefined): Promise<void> {
    const done = this.#writing.then(async () => {
      const changes = changesOf();
      if (!this.#noted || !changes) return;
      const written = { ...this.#noted, ...changes };
      await this.#files.replace(this.#path, `${JSON.stringify(written)}\n`, 0o600);
      this.#noted = { ...this.#noted, ...changes };
    });
    this.#writing = done.catch(() => {
      // The caller has got the error.
    });
    return done;
  }
}

/** A trial that is open was cut short by the end of the process that had begun it. */
function withDeath({ trial, ...noted }: Noted): Noted {
  if (!trial) return noted;
  return { ...noted, trial: trial.isOpen ? { ...trial, deaths: trial.deaths + 1, isOpen: false } : trial };
}

async function read(path: string): Promise<Noted | undefined> {
  try {
    const bytes = await readFileBounded(path, MAX_SPENDING_BYTES);
    return spendingSchema.parse(JSON.parse(bytes.toString('utf8')));
  } catch (error) {
    // None yet, or damaged: nothing says what was spent.
    if (isSystemError(error) || error instanceof SitecastError) return undefined;
    if (error instanceof SyntaxError || error instanceof z.ZodError) return undefined;
    throw error;
  }
}
