import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { isSystemError } from '@sitecast/shared/errors';

/**
 * Mounts a small disk of its own, for a test that fills it.
 * @returns false where this user may not mount; in CI that throws
 */
export function mountSmallDisk(path: string, mebibytes: number): boolean {
  mkdirSync(path);
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'tmpfs', path], { stdio: 'ignore' });
    return true;
  } catch {
    if (process.env.CI !== undefined) throw new Error('a small tmpfs could not be mounted');
    return false;
  }
}

export function unmount(path: string): void {
  execFileSync('umount', [path]);
}

/** Fills the file's disk. */
export function fillDisk(path: string): void {
  const file = openSync(path, 'w');
  try {
    for (const piece of [65_536, 4096, 1]) {
      const bytes = Buffer.alloc(piece);
      try {
        for (;;) writeSync(file, bytes);
      } catch (error) {
        if (!isSystemError(error, 'ENOSPC')) throw error;
      }
    }
  } finally {
    closeSync(file);
  }
}
