import {
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  utimesSync,
  writeSync,
} from 'node:fs';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { translated } from './errors.ts';
import type { FoundFile, SyncFiles } from './files.ts';

/** `SyncFiles` on a directory of a local file system. */
export class SyncDisk implements SyncFiles {
  readonly #root: string;

  /** @param root absolute */
  constructor(root: string) {
    this.#root = root;
  }

  read(path: string, maxBytes: number): Buffer | undefined {
    const fd = this.#open(path);
    if (fd === undefined) return undefined;
    try {
      const { size } = fstatSync(fd);
      if (size > maxBytes) {
        throw new SitecastError(
          'tooLarge',
          'SITECAST_FILE_TOO_LARGE',
          `${path} holds more than ${maxBytes} bytes`,
        );
      }
      const buffer = Buffer.allocUnsafe(size);
      let filled = 0;
      while (filled < size) {
        const count = readSync(fd, buffer, filled, size - filled, filled);
        if (count === 0) break;
        filled += count;
      }
      return buffer.subarray(0, filled);
    } finally {
      closeSync(fd);
    }
  }

  lengthOf(path: string): number | undefined {
    const found = statSync(this.#at(path), { throwIfNoEntry: false });
    return found?.isFile() === true ? found.size : undefined;
  }

  modifiedMs(path: string): number | undefined {
    const found = statSync(this.#at(path), { throwIfNoEntry: false });
    // A time goes to the system in seconds, and its fraction comes back a little less than it was.
    return found?.isFile() === true ? Math.round(found.mtimeMs) : undefined;
  }

  touch(path: string, nowMs: number): void {
    told(this.#root, () => utimesSync(this.#at(path), nowMs / 1000, nowMs / 1000));
  }

  *list(path: string): Generator<FoundFile> {
    for (const name of readdirSync(this.#at(path))) {
      const found = statSync(this.#at(`${path}/${name}`), { throwIfNoEntry: false });
      if (found?.isFile() === true) yield { name, lengthBytes: found.size, modifiedMs: found.mtimeMs };
    }
  }

  makeDirectory(path: string): void {
    told(this.#root, () => mkdirSync(this.#at(path), { recursive: true }));
  }

  write(path: string, bytes: Uint8Array): void {
    const full = this.#at(path);
    told(this.#root, () => {
      const fd = openSync(full, 'w');
      try {
        let written = 0;
        while (written < bytes.length) written += writeSync(fd, bytes, written, bytes.length - written);
      } catch (error) {
        rmSync(full, { force: true });
        throw error;
      } finally {
        closeSync(fd);
      }
    });
  }

  move(from: string, to: string): void {
    told(this.#root, () => renameSync(this.#at(from), this.#at(to)));
  }

  remove(path: string): void {
    try {
      unlinkSync(this.#at(path));
    } catch (error) {
      if (!isSystemError(error, 'ENOENT', 'ENOTDIR')) throw error;
    }
  }

  #open(path: string): number | undefined {
    try {
      return openSync(this.#at(path), constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      if (isSystemError(error, 'ENOENT', 'ENOTDIR')) return undefined;
      throw error;
    }
  }

  #at(path: string): string {
    return `${this.#root}/${path}`;
  }
}

/** @param root of the directory, for the error of a full disk */
function told<T>(root: string, act: () => T): T {
  try {
    return act();
  } catch (error) {
    throw translated(error, root);
  }
}
