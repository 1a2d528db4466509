import { execFile, execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import type { Change, Files } from './changes.ts';
import { CALLS, StraceLog } from './strace-log.ts';

// What programs and their children change in a directory, one change after the other, as strace(1) sees it.

/** Longer writes aren't recorded whole, and so refused. */
const MAX_WRITE_BYTES = 4 * 1024 * 1024;

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

/**
 * Runs a program, and gives what it and its children change below `directory`. It doesn't block this process, which may be a server of
 * the program.
 * @throws where it doesn't end with 0, and for calls that aren't followed
 */
export async function recordWrites(
  directory: string,
  [program = '', ...args]: readonly string[],
): Promise<Change[]> {
  const reading = new StraceLog(directory, filesIn(directory));
  const log = join(mkdtempSync(join(tmpdir(), 'sitecast-strace-')), 'log');
  try {
    const options = ['-f', '-y', '-xx', '-s', String(MAX_WRITE_BYTES), '--seccomp-bpf'];
    await promisify(execFile)('strace', [...options, '-e', `trace=${CALLS}`, '-o', log, program, ...args]);
    return reading.changesIn(readFileSync(log, 'latin1'));
  } finally {
    rmSync(dirname(log), { recursive: true });
  }
}

/** Where what lies on a disk after a cut is tried: memory where there is some, as an fsync takes no time there. */
export function scratchDirectory(): string {
  return existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
}

/** A directory's regular files, by their paths in it. */
export function filesIn(directory: string, below = ''): Map<string, Buffer> {
  const files = new Map<string, Buffer>();
  for (const entry of readdirSync(join(directory, below), { withFileTypes: true })) {
    const path = join(below, entry.name);
    if (entry.isDirectory()) for (const [name, bytes] of filesIn(directory, path)) files.set(name, bytes);
    else if (entry.isFile()) files.set(path, readFileSync(join(directory, path)));
  }
  return files;
}

/** The directories below a directory, by their paths in it. */
export function directoriesIn(directory: string): string[] {
  const entries = readdirSync(directory, { withFileTypes: true, recursive: true });
  return entries
    .filter(entry => entry.isDirectory())
    .map(({ parentPath, name }) => join(parentPath, name).slice(directory.length + 1));
}

export function putFiles(directory: string, files: Files): void {
  for (const [path, bytes] of files) {
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    writeFileSync(join(directory, path), bytes, { mode: 0o755 });
  }
}
