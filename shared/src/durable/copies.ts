import { createHash } from 'node:crypto';
import { rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isSystemError, SitecastError } from '../errors.ts';
import { readFileBounded } from './bounded.ts';
import { syncDirectory, writeFileDurably } from './files.ts';

// A medium can lose a file that was written correctly: a block becomes unreadable, or a bit flips. Data that must survive this is stored
// twice. The file keeps its form. Its copy begins with the SHA-256 of the rest, so damage in it is noticed.

const DIGEST_CHARS = 64;
const MAX_SET_ASIDE = 9;

const copyOf = (path: string): string => `${path}.copy`;

/** Keeps a copy of a file's bytes beside it, durably. */
export async function writeCopy(path: string, bytes: Uint8Array | string, mode = 0o600): Promise<void> {
  const kept = Buffer.from(bytes);
  await writeFileDurably(copyOf(path), Buffer.concat([Buffer.from(`${sha256(kept)}\n`), kept]), mode);
}

/**
 * Reads the copy of a file.
 * @returns the bytes as they were written; undefined if there is no copy, or it is damaged
 */
export async function readCopy(path: string, maxBytes: number): Promise<Buffer | undefined> {
  try {
    const found = await readFileBounded(copyOf(path), maxBytes + DIGEST_CHARS + 1);
    const kept = found.subarray(DIGEST_CHARS + 1);
    return found.subarray(0, DIGEST_CHARS + 1).toString('latin1') === `${sha256(kept)}\n` ? kept : undefined;
  } catch (error) {
    // An unreadable copy counts as none. The caller has the file itself, or reports that both are lost.
    if (isSystemError(error) || error instanceof SitecastError) return undefined;
    throw error;
  }
}

/**
 * Renames a damaged file, or whatever has its name, to `….damaged`, so that people can look at it. The first nine are kept; after that
 * the last name is used again.
 * @returns the new path; undefined if there is no such file
 */
export async function setAside(path: string): Promise<string | undefined> {
  const aside = await freeName(path);
  try {
    await renameOver(path, aside);
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return undefined;
    throw error;
  }
  await syncDirectory(dirname(path));
  return aside;
}

/** A rename puts a directory in place of an empty directory only, and a file in place of no directory. */
async function renameOver(path: string, aside: string): Promise<void> {
  try {
    await rename(path, aside);
  } catch (error) {
    if (!isSystemError(error, 'EISDIR', 'ENOTDIR', 'ENOTEMPTY', 'EEXIST')) throw error;
    await rm(aside, { recursive: true, force: true });
    await rename(path, aside);
  }
}

/** As `setAside`, for the copy of a file. The path is that of the file. */
export function setCopyAside(path: string): Promise<string | undefined> {
  return setAside(copyOf(path));
}

async function freeName(path: string): Promise<string> {
  for (let number = 1; ; number += 1) {
    const name = number === 1 ? `${path}.damaged` : `${path}.damaged.${number}`;
    if (number === MAX_SET_ASIDE || !(await isThere(name))) return name;
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch {
    // Whatever kind of entry it is, its loss costs nothing.
    return false;
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
