import { join, relative, resolve } from 'node:path';
import type { Change, Files } from './changes.ts';
import { MARK } from './mark.ts';

/** The calls that are traced. `mmap` only to refuse memory that is written through. */
export const CALLS =
  'openat,open,creat,write,writev,pwrite64,pwritev,pwritev2,lseek,ftruncate,truncate,fallocate,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync,access,faccessat,faccessat2,copy_file_range,sendfile,mmap';
/** Calls that change a file in a way that isn't followed here. */
const NOT_FOLLOWED = new Set(['pwritev2', 'fallocate', 'copy_file_range', 'sendfile']);

/** Reads the changes of a directory out of a log of `strace -f -y -xx`. */
export class StraceLog {
  readonly #directory: string;
  /** Where the next write to an open file goes: by path, as each file is open once at a time here. */
  readonly #positions = new Map<string, number | 'end'>();
  readonly #lengths = new Map<string, number>();
  /** Files whose writes are durable when they return (O_SYNC, O_DSYNC). */
  readonly #synchronous = new Set<string>();
  readonly #changes: Change[] = [];

  /** @param before the directory's files before the program runs */
  constructor(directory: string, before: Files) {
    this.#directory = directory;
    for (const [path, { length }] of before) this.#lengths.set(path, length);
  }

  /** @throws for a call that isn't followed here, on a file of the directory */
  changesIn(log: string): Change[] {
    const begun = new Map<string, { text: string; covers: number }>();
    for (const line of log.split('\n')) {
      const [, pid = '', text = ''] = /^(\d+) +(.*)$/.exec(line) ?? [];
      const unfinished = / <unfinished \.\.\.>$/.exec(text);
      if (unfinished) {
        begun.set(pid, { text: text.slice(0, unfinished.index), covers: this.#changes.length });
        continue;
      }
      const before = text.startsWith('<... ') ? begun.get(pid) : undefined;
      const whole = text.replace(/^<\.\.\. \w+ resumed>/, () => before?.text ?? '');
      this.#call(callIn(whole), before?.covers ?? this.#changes.length);
    }
    return this.#changes;
  }

  #call(call: Call, covers: number): void {
    const { name, rest, result, paths, opened } = call;
    const [path = ''] = paths;
    // A look for a mark fails.
    if (name.includes('access') && path.startsWith(MARK))
      this.#changes.push({ kind: 'mark', name: path.slice(MARK.length) });
    if (result === '' || result.startsWith('-')) return;
    if (call.isRelative) throw new Error(`${name} of a relative path isn't followed: ${paths.join(', ')}`);
    if (name === 'mmap') this.#refuseMapping(rest);
    if (paths.length === 0) this.#change(this.#inside(opened), call, covers);
    else this.#name(call, this.#inside(path), this.#inside(paths[1]));
  }

  /** A call that is given names. */
  #name({ name, rest }: Call, from: string | undefined, to: string | undefined): void {
    // One of a kind, with the working directory of its own or without: mkdir, mkdirat.
    switch (name.replace(/at2?$/, '')) {
      case 'open':
      case 'creat':
        return this.#open(from, name, rest);
      case 'rename':
        return this.#move(from, to);
      case 'link':
        return this.#link(from, to);
      case 'unlink':
      case 'rmdir':
        return this.#remove(from);
      case 'mkdir':
        return this.#make(from);
      case 'access':
      case 'faccess':
        return;
      default:
        return this.#refuse(name, from ?? to);
    }
  }

  #refuse(call: string, path: string | undefined): void {
    if (path !== undefined) throw new Error(`${call} on ${path} isn't followed`);
  }

  #refuseMapping(rest: string): void {
    if (!rest.includes('MAP_SHARED') || !rest.includes('PROT_WRITE')) return;
    const mapped = /\d+<((?:\\x[0-9a-f]{2})*)>/.exec(rest)?.[1];
    this.#refuse('mmap', this.#inside(mapped === undefined ? undefined : bytesOf(mapped).toString('utf8')));
  }

  #make(path: string | undefined): void {
    if (path !== undefined && path !== '') this.#changes.push({ kind: 'make-directory', path });
  }

  #remove(path: string | undefined): void {
    if (path === undefined) return;
    this.#lengths.delete(path);
    this.#changes.push({ kind: 'remove', path });
  }

  #open(path: string | undefined, call: string, rest: string): void {
    if (path === undefined || !(call === 'creat' || /O_WRONLY|O_RDWR|O_CREAT/.test(rest))) return;
    const isEmptied = call === 'creat' || rest.includes('O_TRUNC') || !this.#lengths.has(path);
    if (isEmptied) this.#lengths.set(path, 0);
    this.#positions.set(path, rest.includes('O_APPEND') ? 'end' : 0);
    if (/O_D?SYNC/.test(rest)) this.#synchronous.add(path);
    else this.#synchronous.delete(path);
    this.#changes.push({ kind: 'open', path, isEmptied });
  }

  #move(path: string | undefined, to: string | undefined): void {
    if (path === undefined || to === undefined) {
      if (path !== to) throw new Error(`${path ?? to} moves into the directory or out of it`);
      return;
    }
    for (const [name, lengthBytes] of this.#lengths) {
      const below = name === path ? '' : name.startsWith(`${path}/`) ? name.slice(path.length) : undefined;
      if (below === undefined) continue;
      this.#lengths.delete(name);
      this.#lengths.set(to + below, lengthBytes);
    }
    this.#changes.push({ kind: 'rename', path, to });
  }

  #link(path: string | undefined, to: string | undefined): void {
    if (path === undefined || to === undefined) return this.#refuse('link', path ?? to);
    this.#lengths.set(to, this.#lengths.get(path) ?? 0);
    this.#changes.push({ kind: 'link', path, to });
  }

  #change(path: string | undefined, { name, rest, texts, result }: Call, covers: number): void {
    if (path === undefined) return;
    if (NOT_FOLLOWED.has(name)) this.#refuse(name, path);
    const lastNumber = Number(/(\d+)$/.exec(rest)?.[1]);
    const length = Number(result);
    const bytes = Buffer.concat(texts).subarray(0, length);
    if (name === 'write' || name === 'writev') this.#write(path, this.#here(path), bytes, length, true);
    else if (name === 'pwrite64' || name === 'pwritev') this.#write(path, lastNumber, bytes, length, false);
    else if (name === 'lseek') this.#positions.set(path, length);
    else if (name === 'ftruncate') {
      this.#lengths.set(path, lastNumber);
      this.#changes.push({ kind: 'truncate', path, lengthBytes: lastNumber });
    } else if (name.endsWith('sync')) this.#changes.push({ kind: 'sync', path, covers });
  }

  #here(path: string): number {
    const position = this.#positions.get(path) ?? 0;
    return position === 'end' ? (this.#lengths.get(path) ?? 0) : position;
  }

  #write(path: string, offset: number, bytes: Buffer, length: number, isAtPosition: boolean): void {
    if (bytes.length < length) throw new Error(`${path}: strace shows ${bytes.length} of ${length} bytes`);
    const end = offset + length;
    if (isAtPosition && this.#positions.get(path) !== 'end') this.#positions.set(path, end);
    this.#lengths.set(path, Math.max(end, this.#lengths.get(path) ?? 0));
    this.#changes.push({ kind: 'write', path, offset, bytes });
    if (this.#synchronous.has(path)) this.#changes.push({ kind: 'sync', path, covers: this.#changes.length });
  }

  #inside(path: string | undefined): string | undefined {
    if (path === undefined || !path.startsWith('/')) return undefined;
    const inside = relative(this.#directory, path);
    return inside.startsWith('..') ? undefined : join('/', inside).slice(1);
  }
}

interface Call {
  name: string;
  /** Its arguments, as strace prints them. */
  rest: string;
  /** What it returned. */
  result: string;
  texts: Buffer[];
  paths: string[];
  /** A path is relative to a working directory that strace doesn't show. */
  isRelative: boolean;
  /** The file of its first argument. */
  opened: string | undefined;
}

/** A line of strace. */
function callIn(text: string): Call {
  const [, name = '', rest = '', result = ''] = /^(\w+)\((.*)\) += (-?\w+)/.exec(text) ?? [];
  // Each text, and before it the directory that a path is relative to, where the call has one.
  const found = [...rest.matchAll(/(?:<((?:\\x[0-9a-f]{2})*)>, )?"((?:\\x[0-9a-f]{2})*)"/g)];
  const texts = found.map(([, , hex = '']) => bytesOf(hex));
  const paths = name.includes('write')
    ? []
    : found.map(([, base = '', hex = '']) =>
        resolve('/', bytesOf(base).toString('utf8'), bytesOf(hex).toString('utf8')),
      );
  // A file that was deleted while it is open is followed by `(deleted)`.
  const opened = /^\d+<((?:\\x[0-9a-f]{2})*)>(?!\(deleted\))/.exec(rest)?.[1];
  return {
    name,
    rest,
    result,
    texts,
    paths,
    isRelative:
      /^(open|creat|truncate|rename|link|symlink|unlink|rmdir|mkdir)$/.test(name) && texts.some(isRelative),
    opened: opened === undefined ? undefined : bytesOf(opened).toString('utf8'),
  };
}

const isRelative = (path: Buffer): boolean => !path.toString('utf8').startsWith('/');
const bytesOf = (hex: string): Buffer => Buffer.from(hex.replaceAll('\\x', ''), 'hex');
