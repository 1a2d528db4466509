import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  close,
  closeSync,
  constants,
  createReadStream,
  fstatSync,
  fsync,
  open,
  type OpenMode,
  read,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs';
import { mkdir, opendir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { promisify } from 'node:util';
import { createFileDurably, readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError } from '@sitecast/shared/errors';
import { forEachBounded } from '@sitecast/shared/async';
import { translated } from './errors.ts';
import type { DiskFile, Files, FileWriter, FoundFile } from './files.ts';

/** The ending of files that are being written. A file that a killed process left with it is of no use. */
const PARTIAL_SUFFIX = '.partial';

const STREAM_PIECE_BYTES = 64 * 1024;

/** From so many paths on, writing all of the file system's dirty data out costs less than syncing each of them. */
const MIN_PATHS_FOR_SYNCFS = 32;
const SYNC_CONCURRENCY = 16;

/**
 * `Files` on a directory of a local file system. Each of node's asynchronous calls goes through its thread pool, at many times
 * the cost of the system call itself. So reading a published file takes two of them, and calls that never wait for the disk
 * (fstat and close of a file that is open for reading) are made synchronously.
 */
export class DiskFiles implements Files {
  readonly #root: string;
  readonly #syncCommand: readonly [string, ...string[]];

  /**
   * @param root absolute
   * @param syncCommand program and arguments that, with a path behind them, call syncfs(2)
   */
  constructor(root: string, syncCommand: readonly [string, ...string[]] = ['sync', '-f']) {
    this.#root = root;
    this.#syncCommand = syncCommand;
  }

  async read(path: string, maxBytes: number): Promise<Buffer | undefined> {
    try {
      return await readFileBounded(this.#at(path), maxBytes);
    } catch (error) {
      if (isSystemError(error, 'ENOENT', 'ENOTDIR')) return undefined;
      throw error;
    }
  }

  async open(path: string): Promise<DiskFile | undefined> {
    let fd: number;
    try {
      fd = await openFile(this.#at(path), constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      if (isSystemError(error, 'ENOENT', 'ENOTDIR')) return undefined;
      throw error;
    }
    const found = fstatSync(fd);
    if (!found.isFile()) {
      closeSync(fd);
      return undefined;
    }
    return {
      lengthBytes: found.size,
      modifiedMs: found.mtimeMs,
      stamp: `${found.ino}-${found.size}-${found.mtimeMs}-${found.ctimeMs}`,
      close: () => closeSync(fd),
      read: (start, lengthBytes) => readFd(fd, start, lengthBytes).finally(() => closeSync(fd)),
      stream: (start, lengthBytes) => streamFd(fd, start, lengthBytes),
    };
  }

  lengthOf(path: string): Promise<number | undefined> {
    return new Promise((resolve, reject) => {
      stat(this.#at(path), (error, found) => {
        if (error === null) resolve(found.isFile() ? found.size : undefined);
        else if (isSystemError(error, 'ENOENT', 'ENOTDIR')) resolve(undefined);
        else reject(error);
      });
    });
  }

  async *list(path: string): AsyncGenerator<FoundFile> {
    const directory = await this.#openDirectory(path);
    if (directory === undefined) return;
    for await (const entry of directory) {
      if (!entry.isFile()) continue;
      const found = await statOrUndefined(join(this.#at(path), entry.name));
      if (found) yield { name: entry.name, ...found };
    }
  }

  async listDirectories(path: string): Promise<string[]> {
    try {
      const entries = await readdir(this.#at(path), { withFileTypes: true });
      return entries.filter(entry => entry.isDirectory()).map(entry => entry.name);
    } catch (error) {
      if (isSystemError(error, 'ENOENT', 'ENOTDIR')) return [];
      throw error;
    }
  }

  async makeDirectory(path: string, mode = 0o755): Promise<void> {
    await told(this.#root, mkdir(this.#at(path), { recursive: true, mode }));
  }

  async writer(path: string): Promise<FileWriter> {
    const root = this.#root;
    const full = this.#at(path);
    const partial = `${full}.${randomBytes(6).toString('hex')}${PARTIAL_SUFFIX}`;
    const fd = await told(root, openFile(partial, 'wx'));
    let isOpen = true;
    const shut = async (): Promise<void> => {
      if (!isOpen) return;
      isOpen = false;
      await closeFile(fd);
    };
    const discard = async (): Promise<void> => {
      if (!isOpen) return;
      await shut();
      await call(done => rm(partial, { force: true }, done));
    };
    return {
      write: bytes =>
        told(
          root,
          call(done => writeFile(fd, bytes, done)),
        ),
      discard,
      async finish() {
        try {
          await told(
            root,
            call(done => fsync(fd, done)),
          );
          await told(
            root,
            call(done => rename(partial, full, done)),
          );
        } catch (error) {
          await discard();
          throw error;
        }
        await shut();
      },
    };
  }

  async writeDurably(path: string, bytes: Uint8Array, mode?: number): Promise<void> {
    await told(this.#root, writeFileDurably(this.#at(path), bytes, mode));
  }

  async createDurably(path: string, bytes: Uint8Array, mode?: number): Promise<boolean> {
    try {
      await told(this.#root, createFileDurably(this.#at(path), bytes, mode));
      return true;
    } catch (error) {
      if (isSystemError(error, 'EEXIST')) return false;
      throw error;
    }
  }

  move(from: string, to: string): Promise<void> {
    return told(
      this.#root,
      call(done => rename(this.#at(from), this.#at(to), done)),
    );
  }

  remove(path: string): Promise<void> {
    return call(done => rm(this.#at(path), { force: true }, done));
  }

  async sync(path: string): Promise<void> {
    const fd = await openFile(this.#at(path), 'r');
    try {
      await told(
        this.#root,
        call(done => fsync(fd, done)),
      );
    } finally {
      await closeFile(fd);
    }
  }

  syncDirectory(path: string): Promise<void> {
    return this.sync(path);
  }

  async syncAll(paths: readonly string[]): Promise<void> {
    if (paths.length >= MIN_PATHS_FOR_SYNCFS && (await this.#syncFileSystem())) return;
    await forEachBounded(paths, SYNC_CONCURRENCY, path => this.sync(path));
  }

  /** @returns false if there is no such command, or if it failed: syncing each path by itself tells what is wrong */
  async #syncFileSystem(): Promise<boolean> {
    const [program, ...args] = this.#syncCommand;
    try {
      await promisify(execFile)(program, [...args, this.#root]);
      return true;
    } catch {
      return false;
    }
  }

  #at(path: string): string {
    return join(this.#root, path);
  }

  async #openDirectory(path: string) {
    try {
      return await opendir(this.#at(path));
    } catch (error) {
      if (isSystemError(error, 'ENOENT', 'ENOTDIR')) return undefined;
      throw error;
    }
  }
}

function openFile(path: string, flags: OpenMode): Promise<number> {
  return new Promise((resolve, reject) => {
    open(path, flags, (error, fd) => {
      if (error === null) resolve(fd);
      else reject(error);
    });
  });
}

function closeFile(fd: number): Promise<void> {
  return call(done => close(fd, done));
}

async function readFd(fd: number, start: number, lengthBytes: number): Promise<Buffer<ArrayBuffer>> {
  const buffer = Buffer.allocUnsafe(lengthBytes);
  let filled = 0;
  while (filled < lengthBytes) {
    const bytesRead = await new Promise<number>((resolve, reject) => {
      read(fd, buffer, filled, lengthBytes - filled, start + filled, (error, count) => {
        if (error === null) resolve(count);
        else reject(error);
      });
    });
    if (bytesRead === 0) throw new Error('a published file became shorter while it was read');
    filled += bytesRead;
  }
  return buffer;
}

function streamFd(fd: number, start: number, lengthBytes: number): ReadableStream<Uint8Array> {
  const stream = createReadStream('', {
    fd,
    start,
    end: start + lengthBytes - 1,
    highWaterMark: STREAM_PIECE_BYTES,
  });
  return Readable.toWeb(stream);
}

function statOrUndefined(path: string): Promise<Omit<FoundFile, 'name'> | undefined> {
  return new Promise((resolve, reject) => {
    stat(path, (error, found) => {
      if (error === null) resolve({ lengthBytes: found.size, modifiedMs: found.mtimeMs });
      else if (isSystemError(error, 'ENOENT')) resolve(undefined);
      else reject(error);
    });
  });
}

function call(act: (done: (error: NodeJS.ErrnoException | null | undefined) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    act(error => {
      if (error) reject(error);
      else resolve();
    });
  });
}

/** @param root of the directory, for the error of a full disk */
async function told<T>(root: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw translated(error, root);
  }
}
