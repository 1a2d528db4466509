import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';

// What programs and their children change in a directory, one change after the other, as strace(1) sees it. A test can put any beginning
// of it back on the disk: what a power cut leaves there, of a disk that keeps the order of its writes.

/** One change. Paths are relative to the directory that is watched. */
export type Change =
  /** A file that may have existed; `isEmptied`: with nothing in it. */
  | { kind: 'open'; path: string; isEmptied: boolean }
  | { kind: 'write'; path: string; offset: number; bytes: Buffer }
  | { kind: 'truncate'; path: string; lengthBytes: number }
  | { kind: 'rename'; path: string; to: string }
  | { kind: 'remove'; path: string }
  | { kind: 'sync'; path: string }
  /** The program has said so, by looking for `/sitecast-mark/NAME`. */
  | { kind: 'mark'; name: string };

const MARK = '/sitecast-mark/';
const CALLS =
  'openat,open,creat,write,writev,pwrite64,pwritev,lseek,ftruncate,truncate,rename,renameat,renameat2,link,linkat,unlink,unlinkat,fsync,fdatasync,access,faccessat,faccessat2,copy_file_range,sendfile';
/** Calls that change a file in a way that isn't followed here. */
const NOT_FOLLOWED = new Set([
  'writev',
  'pwritev',
  'truncate',
  'link',
  'linkat',
  'copy_file_range',
  'sendfile',
]);

/**
 * Why a machine can't record writes; undefined where it can.
 * @throws in CI, where it has to
 */
export function whyNoRecording(): string | undefined {
  const directory = mkdtempSync(join(tmpdir(), 'sitecast-strace-'));
  try {
    execFileSync('strace', ['-o', join(directory, 'log'), 'true'], { stdio: 'pipe' });
    return undefined;
  } catch (error) {
    const why = `skipped: recording writes needs strace, and the right to trace (${String(error).split('\n')[0]})`;
    if (process.env.CI) throw new Error(why, { cause: error });
    process.stderr.write(`${why}\n`);
    return why;
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Runs a program, and gives what it and its children change below `directory`. @throws where it doesn't end with 0 */
export function recordWrites(directory: string, [program = '', ...args]: readonly string[]): Change[] {
  const reading = new Reading(directory);
  const log = join(mkdtempSync(join(tmpdir(), 'sitecast-strace-')), 'log');
  try {
    const options = ['-f', '-y', '-xx', '-s', '1000000', '--seccomp-bpf', '-e', `trace=${CALLS}`, '-o', log];
    execFileSync('strace', [...options, program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    return reading.changesIn(readFileSync(log, 'latin1'));
  } finally {
    rmSync(dirname(log), { recursive: true });
  }
}

class Reading {
  readonly #directory: string;
  /** Where the next write to an open file goes: by path, as each file is open once at a time here. */
  readonly #positions = new Map<string, number | 'end'>();
  readonly #lengths = new Map<string, number>();
  readonly #changes: Change[] = [];

  /** Before the program runs. */
  constructor(directory: string) {
    this.#directory = directory;
    for (const [path, { length }] of filesIn(directory)) this.#lengths.set(path, length);
  }

  changesIn(log: string): Change[] {
    const begun = new Map<string, string>();
    for (const line of log.split('\n')) {
      const [, pid = '', text = ''] = /^(\d+) +(.*)$/.exec(line) ?? [];
      const unfinished = / <unfinished \.\.\.>$/.exec(text);
      if (unfinished) begun.set(pid, text.slice(0, unfinished.index));
      else this.#call(text.replace(/^<\.\.\. \w+ resumed>/, () => begun.get(pid) ?? ''));
    }
    return this.#changes;
  }

  #call(text: string): void {
    const { name, rest, result, texts, paths, opened } = callIn(text);
    // A look for a mark fails.
    const [path = ''] = paths;
    if (name.includes('access') && path.startsWith(MARK))
      this.#changes.push({ kind: 'mark', name: path.slice(MARK.length) });
    if (result === '' || result.startsWith('-')) return;
    const at = this.#inside(opened);
    const from = this.#inside(path);
    if (name === 'open' || name === 'openat' || name === 'creat') this.#open(from, name, rest);
    else if (name.startsWith('rename')) this.#rename(from, this.#inside(paths[1]));
    else if (name.startsWith('unlink')) this.#remove(from);
    else if (at !== undefined) this.#change(at, name, rest, texts[0], Number(result));
  }

  #remove(path: string | undefined): void {
    if (path !== undefined) this.#changes.push({ kind: 'remove', path });
  }

  #open(path: string | undefined, call: string, rest: string): void {
    if (path === undefined || !(call === 'creat' || /O_WRONLY|O_RDWR|O_CREAT/.test(rest))) return;
    const isEmptied = call === 'creat' || rest.includes('O_TRUNC') || !this.#lengths.has(path);
    if (isEmptied) this.#lengths.set(path, 0);
    this.#positions.set(path, rest.includes('O_APPEND') ? 'end' : 0);
    this.#changes.push({ kind: 'open', path, isEmptied });
  }

  #rename(path: string | undefined, to: string | undefined): void {
    if (path === undefined || to === undefined) return;
    this.#lengths.set(to, this.#lengths.get(path) ?? 0);
    this.#lengths.delete(path);
    this.#changes.push({ kind: 'rename', path, to });
  }

  #change(path: string, call: string, rest: string, bytes: Buffer | undefined, result: number): void {
    if (NOT_FOLLOWED.has(call)) throw new Error(`${call} on ${path} isn't followed`);
    const lastNumber = Number(/(\d+)$/.exec(rest)?.[1]);
    if (call === 'write') this.#write(path, this.#here(path), bytes, result, true);
    else if (call === 'pwrite64') this.#write(path, lastNumber, bytes, result, false);
    else if (call === 'lseek') this.#positions.set(path, result);
    else if (call === 'ftruncate') this.#changes.push({ kind: 'truncate', path, lengthBytes: lastNumber });
    else if (call.endsWith('sync')) this.#changes.push({ kind: 'sync', path });
  }

  #here(path: string): number {
    const position = this.#positions.get(path) ?? 0;
    return position === 'end' ? (this.#lengths.get(path) ?? 0) : position;
  }

  #write(
    path: string,
    offset: number,
    bytes: Buffer | undefined,
    length: number,
    isAtPosition: boolean,
  ): void {
    const end = offset + length;
    if (isAtPosition && this.#positions.get(path) !== 'end') this.#positions.set(path, end);
    this.#lengths.set(path, Math.max(end, this.#lengths.get(path) ?? 0));
    this.#changes.push({ kind: 'write', path, offset, bytes: Buffer.from(bytes ?? []).subarray(0, length) });
  }

  #inside(path: string | undefined): string | undefined {
    if (path === undefined || !path.startsWith('/')) return undefined;
    const inside = relative(this.#directory, path);
    return inside === '' || inside.startsWith('..') ? undefined : inside;
  }
}

/** A line of strace: the call, its arguments and what it returned; `opened` is the file of its first argument. */
function callIn(text: string) {
  const [, name = '', rest = '', result = ''] = /^(\w+)\((.*)\) += (-?\d+)/.exec(text) ?? [];
  // Each text, and before it the directory that a path is relative to, where the call has one.
  const found = [...rest.matchAll(/(?:<((?:\\x[0-9a-f]{2})*)>, )?"((?:\\x[0-9a-f]{2})*)"/g)];
  const texts = found.map(([, , hex = '']) => bytesOf(hex));
  const paths = found.map(([, base = '', hex = '']) =>
    resolve('/', bytesOf(base).toString('utf8'), bytesOf(hex).toString('utf8')),
  );
  const opened = /^\d+<((?:\\x[0-9a-f]{2})*)>/.exec(rest)?.[1];
  return {
    name,
    rest,
    result,
    texts,
    paths,
    opened: opened === undefined ? undefined : bytesOf(opened).toString('utf8'),
  };
}

const bytesOf = (hex: string): Buffer => Buffer.from(hex.replaceAll('\\x', ''), 'hex');

/** A directory's files, by their paths in it. */
export function filesIn(directory: string, below = ''): Map<string, Buffer> {
  const files = new Map<string, Buffer>();
  for (const entry of readdirSync(join(directory, below), { withFileTypes: true })) {
    const path = join(below, entry.name);
    if (entry.isDirectory()) for (const [name, bytes] of filesIn(directory, path)) files.set(name, bytes);
    else files.set(path, readFileSync(join(directory, path)));
  }
  return files;
}

export function putFiles(directory: string, files: ReadonlyMap<string, Buffer>): void {
  for (const [path, bytes] of files) {
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    writeFileSync(join(directory, path), bytes, { mode: 0o755 });
  }
}

/** The files after these changes. Files that were there are copied, not changed. */
export function afterChanges(
  before: ReadonlyMap<string, Buffer>,
  changes: readonly Change[],
): Map<string, Buffer> {
  const files = new Map(before);
  for (const change of changes) apply(files, change);
  return files;
}

function apply(files: Map<string, Buffer>, change: Change): void {
  if (change.kind === 'mark' || change.kind === 'sync') return;
  const there = files.get(change.path) ?? Buffer.alloc(0);
  if (change.kind === 'open') files.set(change.path, change.isEmptied ? Buffer.alloc(0) : there);
  else if (change.kind === 'remove') files.delete(change.path);
  else if (change.kind === 'rename') {
    files.delete(change.path);
    files.set(change.to, there);
  } else {
    const end = change.kind === 'truncate' ? change.lengthBytes : change.offset + change.bytes.length;
    const longer = Buffer.alloc(change.kind === 'truncate' ? end : Math.max(end, there.length));
    there.copy(longer);
    if (change.kind === 'write') change.bytes.copy(longer, change.offset);
    files.set(change.path, longer);
  }
}
