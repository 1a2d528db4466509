import { ByteBudget } from '@sitecast/shared/bounded';
import { createHash } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import { MAX_TARGET_FILE_BYTES } from '../../repository/repository-store.ts';
import type { FileReceiver, FileStaging } from '../../staging/ports.ts';
import { readOrUndefined, stagingFull } from './errors.ts';
import type { Files } from './files.ts';
import { STAGED_FILES } from './layout.ts';

const STAGED_NAME = /^[0-9a-f]{64}$/;
export const MAX_STAGED_FILES = 10_000;
/** All of them together. Chunks have a limit of their own. */
const MAX_STAGED_FILES_BYTES = 4 * 1024 * 1024 * 1024;

interface StagedFile {
  lengthBytes: number;
  seenAtMs: number;
}

/** Staged target files, each as a file that is named after its hash. */
export class DiskFileStaging implements FileStaging {
  readonly #files: Files;
  readonly #budget = new ByteBudget(MAX_STAGED_FILES_BYTES);
  readonly #now: () => number;
  readonly #staged = new Map<string, StagedFile>();

  private constructor(files: Files, now: () => number) {
    this.#files = files;
    this.#now = now;
  }

  static async open(files: Files, now: () => number): Promise<DiskFileStaging> {
    const staged = new DiskFileStaging(files, now);
    for await (const { name, lengthBytes, modifiedMs } of files.list(STAGED_FILES)) {
      if (STAGED_NAME.test(name)) staged.#add(name, { lengthBytes, seenAtMs: modifiedMs });
      else await files.remove(`${STAGED_FILES}/${name}`);
    }
    return staged;
  }

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

  async read(sha256: string): Promise<Buffer | undefined> {
    const staged = this.#staged.get(sha256) ?? (await this.#find(sha256));
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

  async prune(beforeMs: number): Promise<number> {
    const old = [...this.#staged].filter(([, { seenAtMs }]) => seenAtMs < beforeMs);
    for (const [sha256] of old) await this.remove(sha256);
    return old.length;
  }

  /** A file that another process has staged since this one began. */
  async #find(sha256: string): Promise<StagedFile | undefined> {
    const lengthBytes = await this.#files.lengthOf(path(sha256));
    if (lengthBytes === undefined) return undefined;
    const found = { lengthBytes, seenAtMs: this.#now() };
    this.#add(sha256, found);
    return found;
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
  return `${STAGED_FILES}/${sha256}`;
}
