import { closeSync, fdatasync, openSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { crc32 } from 'node:zlib';
import { z } from 'zod';
import { setAside, writeFileDurably } from '../durable/index.ts';
import { isSystemError } from '../errors.ts';

/**
 * Two slots, written in turn, each in a sector of its own: a power cut damages at most one. Both are written a second time, in another
 * block of the disk: if one block fails, the last note is still there, and the older slot isn't used instead.
 */
const SLOT_BYTES = 512;
const SLOTS = 2;
const COPIES_AT = 4096;
/** How long after a note it is synced to the disk. */
const SYNC_AFTER_MS = 1000;

const notedSchema = z.object({
  /** The database's id. */
  id: z.string().regex(/^[0-9a-f]{32}$/),
  /** Number of the last commit that was acknowledged. */
  commit: z.int().min(0),
  /** The owner's counts at that time, for error messages. */
  known: z.record(z.string(), z.int()),
});
export type Noted = z.infer<typeof notedSchema>;

/**
 * A file beside the database with the number of the last commit. LevelDB silently drops the end of a damaged log, as it drops a write that
 * a power cut left incomplete; this file distinguishes the two. A note is in the page cache before its commit is acknowledged, so it
 * survives the end of the process, and it is on the disk a second later. It never names a commit that the database doesn't have.
 */
export class Witness {
  readonly #path: string;
  readonly #known: () => Record<string, number>;
  #file: number | undefined;
  #last: Noted | undefined;
  #syncing: NodeJS.Timeout | undefined;

  /** @param known called with each note */
  constructor(path: string, known: () => Record<string, number>) {
    this.#path = path;
    this.#known = known;
  }

  /** The last note; undefined where there is no file; `unreadable` where the file holds no intact note. */
  async read(): Promise<Noted | 'unreadable' | undefined> {
    let bytes: Buffer;
    try {
      bytes = await readFile(this.#path);
    } catch (error) {
      if (isSystemError(error, 'ENOENT')) return undefined;
      // Something else is in its place, or the disk can't read it.
      if (isSystemError(error, 'EISDIR', 'EIO')) return 'unreadable';
      throw error;
    }
    let newest: Noted | undefined;
    for (const at of [0, SLOT_BYTES, COPIES_AT, COPIES_AT + SLOT_BYTES]) {
      const noted = parseSlot(bytes.subarray(at, at + SLOT_BYTES));
      if (noted && noted.commit >= (newest?.commit ?? 0)) newest = noted;
    }
    return newest ?? 'unreadable';
  }

  /** Writes a new file, durably. */
  async begin(id: string, commit: number): Promise<void> {
    this.#close();
    const noted = { id, commit, known: this.#known() };
    const slots = Buffer.concat([slotOf(noted), slotOf(noted)]);
    const bytes = Buffer.concat([slots, Buffer.alloc(COPIES_AT - slots.length), slots]);
    // An unreadable witness may be a directory, over which no file can be renamed.
    if ((await this.read()) === 'unreadable') await setAside(this.#path);
    await writeFileDurably(this.#path, bytes, 0o600);
    this.#last = noted;
  }

  /** Continues with the note that was read. */
  goOn(noted: Noted): void {
    this.#last = noted;
  }

  get hasBegun(): boolean {
    return this.#last !== undefined;
  }

  /** @throws the system's error: then later commits must not be acknowledged */
  note(commit: number): void {
    if (!this.#last) throw new Error('the witness has not begun');
    this.#file ??= openSync(this.#path, 'r+');
    this.#last = { ...this.#last, commit, known: this.#known() };
    const slot = slotOf(this.#last);
    const at = (commit % SLOTS) * SLOT_BYTES;
    for (const from of [0, COPIES_AT]) writeSync(this.#file, slot, 0, SLOT_BYTES, from + at);
    this.#syncing ??= setTimeout(() => {
      this.#syncing = undefined;
      this.#sync().catch(() => undefined);
    }, SYNC_AFTER_MS).unref();
  }

  async close(): Promise<void> {
    clearTimeout(this.#syncing);
    try {
      await this.#sync();
    } finally {
      this.#close();
    }
  }

  /** Notes the last commit again: by now the counts include it. */
  async #sync(): Promise<void> {
    if (this.#file === undefined || !this.#last) return;
    this.note(this.#last.commit);
    clearTimeout(this.#syncing);
    this.#syncing = undefined;
    await promisify(fdatasync)(this.#file);
  }

  #close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }
}

function slotOf(noted: Noted): Buffer {
  const text = JSON.stringify(noted);
  const line = `${crc32(text).toString(16).padStart(8, '0')} ${text}`;
  if (line.length >= SLOT_BYTES) return slotOf({ ...noted, known: {} });
  return Buffer.from(`${line.padEnd(SLOT_BYTES - 1)}\n`);
}

function parseSlot(slot: Buffer): Noted | undefined {
  const line = slot.toString('utf8').trimEnd();
  const text = line.slice(9);
  if (line.slice(0, 8) !== crc32(text).toString(16).padStart(8, '0')) return undefined;
  try {
    return notedSchema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}
