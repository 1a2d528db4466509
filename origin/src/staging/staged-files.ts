import { ByteBudget } from '@sitecast/shared/bounded';
import { createHash } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import type { Files } from '../storage/files.ts';
import { readOrUndefined } from '../storage/unreadable.ts';
import { stagingFull } from './staging-full.ts';

const STAGED = 'staging/files';
const STAGED_NAME = /^[0-9a-f]{64}$/;
/** The longest target file: a chunk index at its own bound. */
export const MAX_TARGET_FILE_BYTES = 64 * 1024 * 1024;
export const MAX_STAGED_FILES = 10_000;
/** All of them together. Chunks have a limit of their own. */
const MAX_STAGED_FILES_BYTES = 4 * 1024 * 1024 * 1024;

interface StagedFile {
  lengthBytes: number;
  seenAtMs: number;
}

/** Receives one target file; see `StagedFiles.receive`. */
export interface FileReceiver {
  write(bytes: Uint8Array): Promise<void>;
  /** @throws SITECAST_HASH_MISMATCH (untrusted) when the bytes aren't those that were announced */
  finish(): Promise<void>;
  /** To be called in any case; gives up what isn't finished. */
  discard(): Promise<void>;
}

/** Target files (indexes, manifests, product files) that were uploaded and that nothing refers to yet, by SHA-256. */
export class StagedFiles {
  readonly #files: Files;
  readonly #budget = new ByteBudget(MAX_STAGED_FILES_BYTES);
  readonly #now: () => number;
  readonly #staged = new Map<string, StagedFile>();

  private constructor(files: Files, now: () => number) {
    this.#files = files;
    this.#now = now;
  }

  static async open(files: Files, now: () => number): Promise<StagedFiles> {
    const staged = new StagedFiles(files, now);
    for await (const { name, lengthBytes, modifiedMs } of files.list(STAGED)) {
      if (STAGED_NAME.test(name)) staged.#add(name, { lengthBytes, seenAtMs: modifiedMs });
      else await files.remove(`${STAGED}/${name}`);
    }
    return staged;
  }

  get count(): number {
    return this.#staged.size;
  }

  /** Whether a file of this hash was uploaded; `read` checks it. */
  has(sha256: string): boolean {
    return this.#staged.has(sha256);
  }

  /**
   * @param sha256 64 lower-case hexadecimal digits
   * @throws SITECAST_STAGING_FULL
   */
  async receive(sha256: string): Promise<FileReceiver> {
    if (this.#staged.size >= MAX_STAGED_FILES) throw stagingFull(`${MAX_STAGED_FILES} target files`);
    const writer = await this.#files.writer(path(sha256));
    const hash = createHash('sha256');
    let lengthBytes = 0;
    let isFinished = false;
    return {
      write: async bytes => {
        if (!this.#budget.tryTake(bytes.length)) throw stagingFull(`${this.#budget.maxBytes} bytes`);
        lengthBytes += bytes.length;
        if (lengthBytes > MAX_TARGET_FILE_BYTES) throw targetFileTooLarge();
        hash.update(bytes);
        await writer.write(bytes);
      },
      finish: async () => {
        const found = hash.digest('hex');
        if (found !== sha256) throw hashMismatch(sha256, found);
        await writer.finish();
        isFinished = true;
        this.#budget.giveBack(lengthBytes);
        this.#drop(sha256);
        this.#add(sha256, { lengthBytes, seenAtMs: this.#now() });
      },
      discard: async () => {
        await writer.discard();
        if (!isFinished) this.#budget.giveBack(lengthBytes);
        isFinished = true;
      },
    };
  }

  /** The file's bytes, checked against its name; undefined if it isn't staged (a damaged one is deleted). */
  async read(sha256: string): Promise<Buffer | undefined> {
    const staged = this.#staged.get(sha256);
    if (!staged) return undefined;
    staged.seenAtMs = this.#now();
    const bytes = await readOrUndefined(this.#files, path(sha256), MAX_TARGET_FILE_BYTES);
    if (bytes !== undefined && createHash('sha256').update(bytes).digest('hex') === sha256) return bytes;
    await this.remove(sha256);
    return undefined;
  }

  async remove(sha256: string): Promise<void> {
    this.#drop(sha256);
    await this.#files.remove(path(sha256));
  }

  async removeOlderThan(beforeMs: number): Promise<number> {
    const old = [...this.#staged].filter(([, { seenAtMs }]) => seenAtMs < beforeMs);
    for (const [sha256] of old) await this.remove(sha256);
    return old.length;
  }

  #add(sha256: string, file: StagedFile): void {
    this.#staged.set(sha256, file);
    this.#budget.takeAnyway(file.lengthBytes);
  }

  #drop(sha256: string): void {
    const staged = this.#staged.get(sha256);
    if (!staged) return;
    this.#staged.delete(sha256);
    this.#budget.giveBack(staged.lengthBytes);
  }
}

function targetFileTooLarge(): SitecastError {
  return new SitecastError(
    'tooLarge',
    'SITECAST_BODY_TOO_LARGE',
    `a target file has at most ${MAX_TARGET_FILE_BYTES} bytes`,
    { data: { maxBytes: MAX_TARGET_FILE_BYTES } },
  );
}

function hashMismatch(expected: string, found: string): SitecastError {
  return new SitecastError(
    'untrusted',
    'SITECAST_HASH_MISMATCH',
    `the bytes sent have the SHA-256 ${found}, not ${expected}`,
    { data: { expected, found } },
  );
}

function path(sha256: string): string {
  return `${STAGED}/${sha256}`;
}
