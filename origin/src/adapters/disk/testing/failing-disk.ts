import { existsSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import type { DiskFile, Files, FileWriter, FoundFile, SyncFiles } from '../files.ts';

/** What a test's power cut takes away of all that was not made durable. */
export type Loss = 'nothing' | 'contents' | 'everything';

/** Thrown by the operation at which the process dies, and by all after it. */
export class ProcessDied extends Error {}

interface UndurableName {
  /** The directory whose sync makes it durable. */
  directory: string;
  undo: () => void;
}

/**
 * Counts the disk operations of a test's origin, dies at the one that it's told to, and then takes back what a power
 * cut may take back: contents that weren't synced, names whose directory wasn't.
 */
export class Breaker {
  readonly #root: string;
  #dieAt = Number.POSITIVE_INFINITY;
  #names: UndurableName[] = [];
  /** Paths of files whose bytes aren't durable; they move with their files. */
  readonly #contents = new Set<string>();
  operations = 0;

  constructor(root: string) {
    this.#root = root;
  }

  /** @param dieAt number of the operation that is the first not to happen, counted from 1, from now on */
  arm(dieAt: number): void {
    this.#dieAt = this.operations + dieAt;
  }

  get hasDied(): boolean {
    return this.operations >= this.#dieAt;
  }

  /** One operation is about to happen. */
  step(): void {
    if (this.hasDied) throw new ProcessDied();
    this.operations += 1;
    if (this.hasDied) throw new ProcessDied();
  }

  at(path: string): string {
    return join(this.#root, path);
  }

  /** A file was written. */
  noteContents(path: string): void {
    this.#contents.add(normalize(path));
  }

  /** A name came or went. */
  noteName(path: string, undo: () => void): void {
    this.#names.push({ directory: normalize(dirname(path)), undo });
  }

  moved(from: string, to: string): void {
    if (this.#contents.delete(normalize(from))) this.#contents.add(normalize(to));
  }

  synced(path: string): void {
    this.#contents.delete(normalize(path));
    this.#names = this.#names.filter(({ directory }) => directory !== normalize(path));
  }

  /** The power is cut. */
  lose(loss: Loss): void {
    if (loss === 'nothing') return;
    for (const path of this.#contents) if (existsSync(this.at(path))) truncateSync(this.at(path));
    if (loss === 'contents') return;
    for (const { undo } of this.#names.reverse()) undo();
  }
}

/** Remembers what a path holds, to put it back. */
function keeper(full: string): () => void {
  const before = existsSync(full) ? readFileSync(full) : undefined;
  return () => {
    if (before === undefined) rmSync(full, { force: true });
    else writeFileSync(full, before);
  };
}

export class FailingFiles implements Files {
  readonly #inner: Files;
  readonly #breaker: Breaker;

  constructor(inner: Files, breaker: Breaker) {
    this.#inner = inner;
    this.#breaker = breaker;
  }

  open(path: string): Promise<DiskFile | undefined> {
    return this.#inner.open(path);
  }

  read(path: string, maxBytes: number): Promise<Buffer | undefined> {
    return this.#inner.read(path, maxBytes);
  }

  lengthOf(path: string): Promise<number | undefined> {
    return this.#inner.lengthOf(path);
  }

  list(path: string): AsyncIterable<FoundFile> {
    return this.#inner.list(path);
  }

  listDirectories(path: string): Promise<string[]> {
    return this.#inner.listDirectories(path);
  }

  async makeDirectory(path: string, mode?: number): Promise<void> {
    this.#breaker.step();
    await this.#inner.makeDirectory(path, mode);
  }

  writer(path: string): Promise<FileWriter> {
    return this.#inner.writer(path);
  }

  async createDurably(path: string, bytes: Uint8Array, mode?: number): Promise<boolean> {
    if ((await this.#inner.lengthOf(path)) !== undefined) return false;
    await this.writeDurably(path, bytes, mode);
    return true;
  }

  async writeDurably(path: string, bytes: Uint8Array, mode?: number): Promise<void> {
    this.#breaker.step();
    const putBack = keeper(this.#breaker.at(path));
    await this.#inner.writeDurably(path, bytes, mode);
    // In place, but the directory isn't synced yet: others can see it, and the power cut can still take it.
    this.#breaker.noteName(path, putBack);
    this.#breaker.step();
    this.#breaker.synced(dirname(path));
  }

  async move(from: string, to: string): Promise<void> {
    this.#breaker.step();
    noteMove(this.#breaker, from, to);
    await this.#inner.move(from, to);
  }

  async remove(path: string): Promise<void> {
    this.#breaker.step();
    this.#breaker.noteName(path, keeper(this.#breaker.at(path)));
    await this.#inner.remove(path);
  }

  async sync(path: string): Promise<void> {
    this.#breaker.step();
    await this.#inner.sync(path);
    this.#breaker.synced(path);
  }

  syncDirectory(path: string): Promise<void> {
    return this.sync(path);
  }

  async syncAll(paths: readonly string[]): Promise<void> {
    for (const path of paths) await this.sync(path);
  }
}

export class FailingSyncFiles implements SyncFiles {
  readonly #inner: SyncFiles;
  readonly #breaker: Breaker;

  constructor(inner: SyncFiles, breaker: Breaker) {
    this.#inner = inner;
    this.#breaker = breaker;
  }

  read(path: string, maxBytes: number): Buffer | undefined {
    return this.#inner.read(path, maxBytes);
  }

  lengthOf(path: string): number | undefined {
    return this.#inner.lengthOf(path);
  }

  modifiedMs(path: string): number | undefined {
    return this.#inner.modifiedMs(path);
  }

  touch(path: string, nowMs: number): void {
    this.#breaker.step();
    this.#inner.touch(path, nowMs);
  }

  list(path: string): Iterable<FoundFile> {
    return this.#inner.list(path);
  }

  makeDirectory(path: string): void {
    this.#breaker.step();
    const full = this.#breaker.at(path);
    const isNew = !existsSync(full);
    this.#inner.makeDirectory(path);
    if (isNew) this.#breaker.noteName(path, () => rmSync(full, { recursive: true, force: true }));
  }

  write(path: string, bytes: Uint8Array): void {
    try {
      this.#breaker.step();
    } catch (error) {
      // Dies in the midst of it.
      this.#inner.write(path, bytes.subarray(0, bytes.length / 2));
      throw error;
    }
    this.#inner.write(path, bytes);
    this.#breaker.noteContents(path);
  }

  move(from: string, to: string): void {
    this.#breaker.step();
    noteMove(this.#breaker, from, to);
    this.#inner.move(from, to);
  }

  remove(path: string): void {
    this.#breaker.step();
    this.#breaker.noteName(path, keeper(this.#breaker.at(path)));
    this.#inner.remove(path);
  }
}

function noteMove(breaker: Breaker, from: string, to: string): void {
  const [fullFrom, fullTo] = [breaker.at(from), breaker.at(to)];
  const putBack = keeper(fullTo);
  breaker.moved(from, to);
  breaker.noteName(to, () => {
    if (!existsSync(fullTo)) return;
    renameSync(fullTo, fullFrom);
    putBack();
  });
}
