import { join } from 'node:path';
import { readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';
import { type DurableFiles, durableFiles } from './durable-files.ts';

const SPENDING_FILE = 'spending.json';
const MAX_SPENDING_BYTES = 64 * 1024;
/** Recipes that may fail for one image. After that it comes by chunks alone. */
export const MAX_FAILED_RECIPES = 2;
/** The note is written ahead of what is spent: by that part of the bound, and that many bytes without a bound. */
const STEPS_OF_BOUND = 64;
const STEP_BYTES = 16 * 1024 * 1024;
const MIN_STEP_BYTES = 64 * 1024;

const hexId = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.int().min(0);
const spendingSchema = z.looseObject({
  format: z.literal('sitecast-spending-1'),
  /** SHA-256 of the image's index: what the rest is about. */
  indexSha256: hexId,
  /** Of the release. */
  counter: count.optional(),
  /** Bytes that came from gateways for it, at most so many. */
  spentBytes: count,
  /** CPU time of applied patches, milliseconds. */
  applyMs: count,
  /** By the plan that its download began with. */
  plannedBytes: count.optional(),
  failedRecipes: z.array(hexId).max(MAX_FAILED_RECIPES),
});
type Noted = z.infer<typeof spendingSchema>;

/** No more bytes may be spent. */
export class OverBound extends Error {
  override readonly name = 'OverBound';
}

/**
 * What one image has cost this device so far: restarts, failed patches and given-up attempts included. It is kept in a file, so that
 * neither a SIGKILL nor a power cut makes the count smaller: the file is always ahead of what was spent. A file that is lost counts from 0.
 */
export class Spending {
  readonly #path: string;
  readonly #files: Pick<DurableFiles, 'replace'>;
  readonly #maxBytes: number;
  #noted: Noted | undefined;
  /** In memory: exact for this process. */
  #spentBytes: number;
  #inFlightBytes = 0;
  #settled: (() => void)[] = [];
  #writing: Promise<void> = Promise.resolve();

  private constructor(
    path: string,
    files: Pick<DurableFiles, 'replace'>,
    { maxBytes, noted }: { maxBytes: number | undefined; noted: Noted | undefined },
  ) {
    this.#path = path;
    this.#files = files;
    this.#maxBytes = maxBytes ?? Number.POSITIVE_INFINITY;
    this.#noted = noted;
    this.#spentBytes = noted?.spentBytes ?? 0;
  }

  /** @param maxBytes that one image may cost; undefined: no bound */
  static async open(
    directory: string,
    {
      maxBytes,
      files = durableFiles,
    }: { maxBytes: number | undefined; files?: Pick<DurableFiles, 'replace'> },
  ): Promise<Spending> {
    const path = join(directory, SPENDING_FILE);
    return new Spending(path, files, { maxBytes, noted: await read(path) });
  }

  get spentBytes(): number {
    return this.#spentBytes;
  }
  get applyMs(): number {
    return this.#noted?.applyMs ?? 0;
  }
  get plannedBytes(): number | undefined {
    return this.#noted?.plannedBytes;
  }
  get failedRecipes(): readonly string[] {
    return this.#noted?.failedRecipes ?? [];
  }
  /** Infinite without a bound. */
  get leftBytes(): number {
    return Math.max(0, this.#maxBytes - this.#spentBytes);
  }

  /** For reports. @returns undefined where nothing is known of that release */
  transferOf(counter: number | undefined): { plannedBytes?: number; spentBytes: number } | undefined {
    if (!this.#noted || counter === undefined || this.#noted.counter !== counter) return undefined;
    const { plannedBytes } = this.#noted;
    return { ...(plannedBytes !== undefined && { plannedBytes }), spentBytes: this.#spentBytes };
  }

  /** What is spent from now on is for this image. Another one before it is forgotten. */
  begin(indexSha256: string, counter: number): void {
    if (this.#noted?.indexSha256 === indexSha256) return;
    this.#noted = {
      counter,
      format: 'sitecast-spending-1',
      indexSha256,
      spentBytes: 0,
      applyMs: 0,
      failedRecipes: [],
    };
    this.#spentBytes = 0;
  }

  /** For what can't be asked for beforehand, such as a signed file. */
  add(lengthBytes: number): void {
    this.#spentBytes += lengthBytes;
  }

  /**
   * Waits until so many bytes may be asked for, and notes durably that they may be spent. `settle` ends that.
   * @throws OverBound where they would exceed the bound
   */
  async admit(lengthBytes: number): Promise<void> {
    while (this.#spentBytes + this.#inFlightBytes + lengthBytes > this.#maxBytes) {
      if (this.#inFlightBytes === 0) throw new OverBound(`${this.#spentBytes} bytes are spent`);
      await new Promise<void>(resolve => this.#settled.push(resolve));
    }
    this.#inFlightBytes += lengthBytes;
    await this.#cover(this.#spentBytes + this.#inFlightBytes);
  }

  /** @param lengthBytes as they were admitted */
  settle(lengthBytes: number): void {
    this.#inFlightBytes -= lengthBytes;
    for (const resolve of this.#settled.splice(0)) resolve();
  }

  /** Durable once it returns. */
  async notePlan(plannedBytes: number): Promise<void> {
    await this.#change({ plannedBytes });
  }

  /** Durable once it returns. */
  async noteFailedRecipe(sha256: string): Promise<void> {
    const failedRecipes = [...new Set([...this.failedRecipes, sha256])].slice(-MAX_FAILED_RECIPES);
    await this.#change({ failedRecipes });
  }

  /** In whole milliseconds; durable with the next change. */
  addApplyMs(ms: number): void {
    if (this.#noted) this.#noted = { ...this.#noted, applyMs: this.#noted.applyMs + Math.ceil(ms) };
  }

  /** Makes the exact count durable, where that is possible: on a full disk the note stays ahead of it. */
  async flush(): Promise<void> {
    try {
      await this.#change({});
    } catch (error) {
      if (!isSystemError(error)) throw error;
    }
  }

  async #cover(spentBytes: number): Promise<void> {
    const covers = () => (this.#noted?.spentBytes ?? 0) >= spentBytes;
    while (!covers()) {
      const step = Math.max(MIN_STEP_BYTES, Math.min(STEP_BYTES, this.#maxBytes / STEPS_OF_BOUND));
      await this.#write(() => {
        const needed = this.#spentBytes + this.#inFlightBytes;
        return covers()
          ? undefined
          : { spentBytes: Math.ceil(Math.max(needed, Math.min(needed + step, this.#maxBytes))) };
      });
    }
  }

  #change(changes: Partial<Noted>): Promise<void> {
    return this.#write(() => ({ spentBytes: this.#spentBytes + this.#inFlightBytes, ...changes }));
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
