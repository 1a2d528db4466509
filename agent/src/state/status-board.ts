import { randomBytes } from 'node:crypto';
import { rename, rm, writeFile } from 'node:fs/promises';
import type { Status } from './status.ts';

/** Progress isn't worth more writes than that. */
const WRITE_EVERY_MS = 1000;

/** The current status, mirrored into a file that is replaced as a whole. Losing it loses nothing. */
export class StatusBoard {
  readonly #path: string;
  #status: Status;
  #timer: NodeJS.Timeout | undefined;
  #lastWriteMs = 0;
  #writing: Promise<void> = Promise.resolve();

  constructor(path: string, status: Status) {
    this.#path = path;
    this.#status = status;
  }

  get current(): Status {
    return this.#status;
  }

  set(changes: Partial<Status>): void {
    this.#status = { ...this.#status, ...changes };
    if (this.#timer) return;
    const sinceMs = performance.now() - this.#lastWriteMs;
    this.#timer = setTimeout(() => this.#write(), Math.max(0, WRITE_EVERY_MS - sinceMs));
    this.#timer.unref();
  }

  /** Writes what is still unwritten. */
  async flush(): Promise<void> {
    this.#write();
    await this.#writing;
  }

  #write(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#lastWriteMs = performance.now();
    this.#writing = this.#writing.then(() => this.#replaceFile());
  }

  // Not fsynced: progress each second would wear the flash out, and a reader tolerates a file that isn't whole.
  async #replaceFile(): Promise<void> {
    const partial = `${this.#path}.${randomBytes(4).toString('hex')}.partial`;
    try {
      await writeFile(partial, `${JSON.stringify(this.#status, null, 1)}\n`, { mode: 0o600 });
      await rename(partial, this.#path);
    } catch {
      // A full disk: the control socket still tells, and the next write may succeed.
      await rm(partial, { force: true }).catch(() => {
        // Nothing is left to be done about it.
      });
    }
  }
}
