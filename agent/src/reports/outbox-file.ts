import type { FileHandle } from 'node:fs/promises';
import { stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { readFileBounded, syncDirectory } from '@sitecast/shared/durable';
import { z } from 'zod';
import { type DurableFiles, durableFiles } from '../state/durable-files.ts';
import type { Entry } from './report-chain.ts';

export const FILE_NAME = 'reports.jsonl';
/** Says why the file no longer begins with the first report: what the origin had acknowledged when it was cut. */
const FORGOTTEN_FILE_NAME = 'reports-forgotten.json';
const MAX_FORGOTTEN_BYTES = 4096;

/** The file of the reports: one envelope a line, appended and fsynced, and now and then replaced as a whole. */
export class OutboxFile {
  readonly #path: string;
  readonly #files: DurableFiles;
  #handle: FileHandle;
  #lengthBytes: number;
  /** After a failed write or fsync: what lies behind the good part isn't known. */
  #isTailSuspect = false;
  /** The handle is that of the file before the last replacement. Nothing that is appended there is kept. */
  #isReplaced = false;
  #isUnknown = false;

  private constructor(
    path: string,
    { files, handle, lengthBytes }: { files: DurableFiles; handle: FileHandle; lengthBytes: number },
  ) {
    this.#path = path;
    this.#files = files;
    this.#handle = handle;
    this.#lengthBytes = lengthBytes;
  }

  /** @param isToBeKept false: what lies behind `lengthBytes` was never made durable, and is cut off */
  static async open(
    path: string,
    files: DurableFiles,
    { lengthBytes, isToBeKept }: { lengthBytes: number; isToBeKept: boolean },
  ): Promise<OutboxFile> {
    const handle = await files.openToAppend(path);
    try {
      if (!isToBeKept) await handle.truncate(lengthBytes);
      await handle.sync();
      await syncDirectory(dirname(path));
    } catch (error) {
      await handle.close();
      throw error;
    }
    return new OutboxFile(path, { files, handle, lengthBytes });
  }

  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  /** A replacement failed, and may have happened all the same. The whole file has to be written before anything is appended. */
  get isUnknown(): boolean {
    return this.#isUnknown;
  }

  /** Durable once it returns. @throws the system's error: then it isn't in the file, and may be tried again */
  async append(line: Buffer): Promise<void> {
    if (this.#isReplaced) await this.#reopen();
    if (this.#isTailSuspect) await this.#handle.truncate(this.#lengthBytes);
    this.#isTailSuspect = true;
    await this.#files.append(this.#handle, line, 'report');
    this.#isTailSuspect = false;
    this.#lengthBytes += line.length;
  }

  /** The file is the old one or the new one, whatever happens. */
  async replace(bytes: Buffer): Promise<void> {
    try {
      await this.#files.replace(this.#path, bytes, 0o600);
    } catch (error) {
      this.#isUnknown ||= !(await this.#isInPlace());
      throw error;
    }
    this.#lengthBytes = bytes.length;
    this.#isTailSuspect = false;
    this.#isReplaced = true;
    this.#isUnknown = false;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  /** Whether the open file is the one that the path leads to. */
  async #isInPlace(): Promise<boolean> {
    try {
      const [open, there] = [await this.#handle.stat(), await stat(this.#path)];
      return open.ino === there.ino && open.dev === there.dev;
    } catch {
      // Whatever is wrong there, it isn't known to be that file.
      return false;
    }
  }

  async #reopen(): Promise<void> {
    const handle = await this.#files.openToAppend(this.#path);
    await this.#handle.close();
    this.#handle = handle;
    this.#isReplaced = false;
  }
}

const forgottenSchema = z.object({ epoch: z.string(), at: z.iso.datetime() });

/**
 * When the origin signed the acknowledgement after which the oldest reports were dropped, in milliseconds. Infinity where no note says
 * so: then no acknowledgement can explain why they aren't there.
 */
export async function forgottenAtMs(directory: string, oldest: Entry | undefined): Promise<number> {
  try {
    const bytes = await readFileBounded(join(directory, FORGOTTEN_FILE_NAME), MAX_FORGOTTEN_BYTES);
    const { epoch, at } = forgottenSchema.parse(JSON.parse(bytes.toString('utf8')));
    return epoch === oldest?.report.epoch ? Date.parse(at) : Number.POSITIVE_INFINITY;
  } catch {
    // Not there, or not of this chain, which may well be whole.
    return Number.POSITIVE_INFINITY;
  }
}

/** Noted before reports are dropped: otherwise a power cut would leave a chain without its beginning, and no reason for that. */
export async function noteForgotten(
  directory: string,
  { epoch, atMs }: { epoch: string; atMs: number },
  files = durableFiles,
): Promise<void> {
  const forgotten: z.infer<typeof forgottenSchema> = { epoch, at: new Date(atMs).toISOString() };
  await files.replace(join(directory, FORGOTTEN_FILE_NAME), JSON.stringify(forgotten), 0o600);
}
