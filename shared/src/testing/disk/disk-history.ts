import { createHash } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Change, Files } from './changes.ts';
import type { Choice } from './choices.ts';
import { FileHistory } from './file-history.ts';
import { putFiles } from './recorded-writes.ts';

/** What lies on a disk after a power cut. */
export interface CutDisk {
  files: Map<string, Buffer>;
  /** All directories, parents first; '' is the one that was watched. */
  directories: string[];
}

/** Changes of names that a journal makes together: of one directory, or of two by a rename. */
interface NameChange {
  at: number;
  edits: { directory: Directory; name: string; node: Node | undefined }[];
}

interface Sync {
  /** The change with which it was done. */
  at: number;
  covers: number;
}

interface FileNode {
  history: FileHistory;
  syncs: Sync[];
  /** Undefined: it was there before. */
  created: NameChange | undefined;
}

interface Directory {
  changes: NameChange[];
  syncs: Sync[];
  created: NameChange | undefined;
  /** As a program sees it, after all changes. */
  names: Map<string, Node>;
}

type Node = FileNode | Directory;
const isDirectory = (node: Node): node is Directory => 'names' in node;

/**
 * The changes of a directory, as a disk with a journal of its names keeps them: ext4 (data=ordered or writeback), xfs, btrfs; compare
 * Pillai et al., "All File Systems Are Not Created Equal", OSDI '14.
 *
 * - Data that was written since a file's last fsync: each sector of 512 bytes is on the disk as after any of the writes to it, and the
 *   length as after any change of it, independently. What a longer file lacks reads as zeros. Nothing orders one file's data with
 *   another's, or with names. A truncation frees blocks: what was written after it is never seen without it.
 * - Names (create, link, rename, remove, make a directory) reach the disk in their order in each directory, up to any of them. A rename
 *   between directories is in both or in neither.
 * - An fsync of a file keeps its data, and the name under which it was made, with the names of the directories that were made to get
 *   there. It keeps no later rename. An fsync of a directory keeps its names, not the files' data.
 */
export class DiskHistory {
  /** How many changes there are: a power cut comes after 0 to that many. */
  readonly length: number;
  readonly #root: Directory = newDirectory(undefined);
  readonly #base: { directory: Directory; name: string; node: Node }[] = [];
  readonly #files: FileNode[] = [];
  readonly #directories: Directory[] = [this.#root];
  readonly #nameChanges: NameChange[] = [];
  readonly #ignoresSyncs: boolean;

  /**
   * @param before what lay there when the record began, and was durable
   * @param ignoresSyncs as if no program had called fsync: to show that a test can fail
   */
  constructor(before: Files, changes: readonly Change[], { ignoresSyncs = false } = {}) {
    this.length = changes.length;
    this.#ignoresSyncs = ignoresSyncs;
    for (const [path, bytes] of before) this.#putBase(path, bytes);
    for (const [at, change] of changes.entries()) this.#follow(at, change);
  }

  /**
   * What lies on the disk when the power is cut after so many changes.
   * @param choice of what wasn't synced
   */
  after(cut: number, choice: Choice): CutDisk {
    const kept = this.#keptNames(cut, choice);
    const names = new Map<Directory, Map<string, Node>>(
      this.#directories.map(directory => [directory, new Map()]),
    );
    for (const { directory, name, node } of this.#base) names.get(directory)?.set(name, node);
    for (const change of this.#nameChanges) {
      if (change.at >= cut) break;
      for (const { directory, name, node } of change.edits) {
        if (directory.changes.indexOf(change) >= (kept.get(directory) ?? 0)) continue;
        if (node) names.get(directory)?.set(name, node);
        else names.get(directory)?.delete(name);
      }
    }
    return this.#walk(names, cut, choice);
  }

  #walk(names: Map<Directory, Map<string, Node>>, cut: number, choice: Choice): CutDisk {
    const disk: CutDisk = { files: new Map(), directories: [] };
    const contents = new Map<FileNode, Buffer>();
    const walk = (directory: Directory, path: string): void => {
      disk.directories.push(path);
      for (const [name, node] of names.get(directory) ?? []) {
        const below = path === '' ? name : `${path}/${name}`;
        if (isDirectory(node)) walk(node, below);
        else {
          // A file with two names has one content.
          const content = contents.get(node) ?? node.history.after(cut, this.#covered(node, cut), choice);
          contents.set(node, content);
          disk.files.set(below, content);
        }
      }
    };
    walk(this.#root, '');
    return disk;
  }

  /** How many of each directory's changes are on the disk. */
  #keptNames(cut: number, choice: Choice): Map<Directory, number> {
    const kept = new Map<Directory, number>();
    for (const directory of this.#directories) {
      const made = directory.changes.filter(({ at }) => at < cut).length;
      const covered = this.#covered(directory, cut);
      const synced = directory.changes.filter(({ at }) => at < covered).length;
      const places = directory.changes.map(({ at }) => at);
      kept.set(directory, choice.upTo(synced, made, places));
    }
    for (const node of [...this.#files, ...this.#directories])
      if (this.#covered(node, cut) > (node.created?.at ?? Number.POSITIVE_INFINITY))
        this.#keepWay(node, kept);
    this.#completeRenames(kept);
    return kept;
  }

  /** What was synced is there with the names that lead to it. */
  #keepWay(node: Node, kept: Map<Directory, number>): void {
    for (const { directory } of node.created?.edits ?? []) {
      const needed = directory.changes.findIndex(change => change === node.created) + 1;
      kept.set(directory, Math.max(needed, kept.get(directory) ?? 0));
      if (directory.created) this.#keepWay(directory, kept);
    }
  }

  #completeRenames(kept: Map<Directory, number>): void {
    for (let isDone = false; !isDone; ) {
      isDone = true;
      for (const change of this.#nameChanges) {
        const places = change.edits.map(({ directory }) => ({
          directory,
          needed: directory.changes.indexOf(change) + 1,
        }));
        const isIn = places.some(({ directory, needed }) => (kept.get(directory) ?? 0) >= needed);
        for (const { directory, needed } of isIn ? places : []) {
          if ((kept.get(directory) ?? 0) >= needed) continue;
          kept.set(directory, needed);
          isDone = false;
        }
      }
    }
  }

  /** Changes before this one are durable for that file or directory. */
  #covered({ syncs }: Node, cut: number): number {
    if (this.#ignoresSyncs) return 0;
    return Math.max(0, ...syncs.filter(({ at }) => at < cut).map(({ covers }) => covers));
  }

  #putBase(path: string, bytes: Buffer): void {
    let directory = this.#root;
    for (const name of path.split('/').slice(0, -1)) {
      const found = directory.names.get(name);
      const next = found && isDirectory(found) ? found : newDirectory(undefined);
      if (found === undefined) {
        this.#directories.push(next);
        this.#base.push({ directory, name, node: next });
      }
      directory.names.set(name, next);
      directory = next;
    }
    const name = path.split('/').at(-1) ?? '';
    const node = { history: new FileHistory(bytes), syncs: [], created: undefined };
    this.#files.push(node);
    directory.names.set(name, node);
    this.#base.push({ directory, name, node });
  }

  #follow(at: number, change: Change): void {
    switch (change.kind) {
      case 'mark':
        return;
      case 'open':
        return this.#open(at, change.path, change.isEmptied);
      case 'write':
        return this.#fileAt(change.path)?.history.write(at, change.offset, change.bytes);
      case 'truncate':
        return this.#fileAt(change.path)?.history.truncate(at, change.lengthBytes);
      case 'sync':
        this.#nodeAt(change.path)?.syncs.push({ at, covers: change.covers });
        return;
      case 'make-directory': {
        const node = newDirectory(undefined);
        this.#directories.push(node);
        node.created = this.#rename(at, [[change.path, node]]);
        return;
      }
      case 'remove':
        this.#rename(at, [[change.path, undefined]]);
        return;
      case 'link':
        this.#rename(at, [[change.to, this.#nodeAt(change.path)]]);
        return;
      case 'rename':
        this.#rename(at, [
          [change.path, undefined],
          [change.to, this.#nodeAt(change.path)],
        ]);
    }
  }

  #open(at: number, path: string, isEmptied: boolean): void {
    const found = this.#fileAt(path);
    if (found) {
      if (isEmptied) found.history.truncate(at, 0);
      return;
    }
    const node: FileNode = { history: new FileHistory(Buffer.alloc(0)), syncs: [], created: undefined };
    this.#files.push(node);
    node.created = this.#rename(at, [[path, node]]);
  }

  /** Gives names in one step. */
  #rename(at: number, names: readonly (readonly [path: string, node: Node | undefined])[]): NameChange {
    const change: NameChange = { at, edits: [] };
    for (const [path, node] of names) {
      const directory = this.#nodeAt(dirname(path) === '.' ? '' : dirname(path));
      if (!directory || !isDirectory(directory)) throw new Error(`${path}: its directory isn't known`);
      const name = path.split('/').at(-1) ?? '';
      change.edits.push({ directory, name, node });
      if (directory.changes.at(-1) !== change) directory.changes.push(change);
      if (node) directory.names.set(name, node);
      else directory.names.delete(name);
    }
    this.#nameChanges.push(change);
    return change;
  }

  #fileAt(path: string): FileNode | undefined {
    const node = this.#nodeAt(path);
    return node && !isDirectory(node) ? node : undefined;
  }

  #nodeAt(path: string): Node | undefined {
    let node: Node | undefined = this.#root;
    for (const name of path.split('/').filter(Boolean))
      node = node && isDirectory(node) ? node.names.get(name) : undefined;
    return node;
  }
}

function newDirectory(created: NameChange | undefined): Directory {
  return { changes: [], syncs: [], created, names: new Map() };
}

/** The same for disks that hold the same. */
export function digestOf({ files, directories }: CutDisk): string {
  const hash = createHash('sha256');
  for (const path of directories.toSorted()) hash.update(`${path}/\n`);
  for (const path of [...files.keys()].sort()) {
    const bytes = files.get(path) ?? Buffer.alloc(0);
    hash.update(`${path} ${bytes.length}\n`).update(bytes);
  }
  return hash.digest('hex');
}

/** Puts it where nothing is yet. */
export function putDisk(directory: string, { files, directories }: CutDisk): void {
  for (const path of directories) mkdirSync(join(directory, path), { recursive: true });
  putFiles(directory, files);
}
