import { createHash } from 'node:crypto';
import { rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isSystemError, SitecastError } from '../errors.ts';
import { readFileBounded } from './bounded.ts';
import { syncDirectory, writeFileDurably } from './files.ts';

// A medium may lose a file that was written well: a block that can't be read back, a bit that has turned. What mustn't be lost
// with it is kept twice. The file itself keeps its form; its copy begins with the SHA-256 of the rest, so it vouches for itself.

const DIGEST_CHARS = 64;
const MAX_SET_ASIDE = 9;

const copyOf = (path: string): string => `${path}.copy`;

/** Keeps a copy of a file's bytes beside it, durably. */
export async function writeCopy(path: string, bytes: Uint8Array | string, mode = 0o600): Promise<void> {
  const kept = Buffer.from(bytes);
  await writeFileDurably(copyOf(path), Buffer.concat([Buffer.from(`${sha256(kept)}\n`), kept]), mode);
}

/** The bytes of a file's copy, as they were written; undefined where there's none, or it's damaged itself. */
export async function readCopy(path: string, maxBytes: number): Promise<Buffer | undefined> {
  try {
    const found = await readFileBounded(copyOf(path), maxBytes + DIGEST_CHARS + 1);
    const kept = found.subarray(DIGEST_CHARS + 1);
    return found.subarray(0, DIGEST_CHARS + 1).toString('latin1') === `${sha256(kept)}\n` ? kept : undefined;
  } catch (error) {
    // Whatever keeps it from being read, it's as good as none: the caller has the file itself, or says that both are lost.
    if (isSystemError(error) || error instanceof SitecastError) return undefined;
    throw error;
  }
}

/**
 * Renames a damaged file, or what lies in its place, to `….damaged`, for people to look at. The first nine stay; the last name is
 * used again then.
 * @returns the new path; undefined if there's no such file
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

/** A directory takes the place of nothing but an empty one, and a file that of none. */
async function renameOver(path: string, aside: string): Promise<void> {
  try {
    await rename(path, aside);
  } catch (error) {
    if (!isSystemError(error, 'EISDIR', 'ENOTDIR', 'ENOTEMPTY', 'EEXIST')) throw error;
    await rm(aside, { recursive: true, force: true });
    await rename(path, aside);
  }
}

/** The same with a file's copy, which is of something else than the file. */
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
    // Whatever it is, nothing can be lost there.
    return false;
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
