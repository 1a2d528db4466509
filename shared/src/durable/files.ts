import { randomBytes } from 'node:crypto';
import { link, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { isSystemError } from '../errors.ts';
import { withRoom } from './full-disk.ts';

/** The name ending of a file that is being written. The owner of a directory may delete such files at start. */
const PARTIAL_SUFFIX = '.partial';
const PARTIAL_NAME = /^(.+)\.[0-9a-f]{4,}\.partial$/;
/** What most file systems take for a directory. */
const DIRECTORY_BYTES = 4096;

/**
 * Replaces (or creates) a file so that a power cut leaves the old bytes or the new ones, never a mixture:
 * write aside, fsync, rename, fsync the directory. When it returns, the new bytes survive a power cut.
 * @param mode permission bits of the new file; 0o600 for anything secret
 * @throws FullDiskError, or another one of the system's
 */
export async function writeFileDurably(
  path: string,
  bytes: Uint8Array | string,
  mode = 0o644,
): Promise<void> {
  await putInPlace(path, bytes, mode, partial => rename(partial, path));
}

/**
 * As `writeFileDurably`, for a file that must not exist yet.
 * @throws the system's EEXIST if it exists; the existing file stays unchanged
 */
export async function createFileDurably(
  path: string,
  bytes: Uint8Array | string,
  mode = 0o644,
): Promise<void> {
  await putInPlace(path, bytes, mode, async partial => {
    try {
      await link(partial, path);
      await rm(partial);
    } catch (error) {
      if (!isSystemError(error, 'EPERM', 'ENOTSUP', 'ENOSYS')) throw error;
      // This file system has no hard links, as on many USB sticks. An empty file takes the name first.
      await (await open(path, 'wx', mode)).close();
      await rename(partial, path);
    }
  });
}

async function putInPlace(
  path: string,
  bytes: Uint8Array | string,
  mode: number,
  place: (partial: string) => Promise<void>,
): Promise<void> {
  const partial = `${path}.${randomBytes(6).toString('hex')}${PARTIAL_SUFFIX}`;
  try {
    const handle = await open(partial, 'wx', mode);
    try {
      await handle.writeFile(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await place(partial);
  } catch (error) {
    await rm(partial, { force: true });
    throw withRoom(
      isSystemError(error) ? namedAs(path, partial, error) : error,
      path,
      Buffer.byteLength(bytes),
    );
  }
  await syncDirectory(dirname(path));
}

/** The error names `path`, because the caller doesn't know the partial file beside it. */
function namedAs(path: string, partial: string, error: NodeJS.ErrnoException): NodeJS.ErrnoException {
  error.message = error.message.replaceAll(partial, path);
  // What fails at an open file doesn't name it.
  if (!error.message.includes(path)) error.message += ` '${path}'`;
  if (error.path === undefined || error.path === partial) error.path = path;
  return error;
}

/**
 * Deletes the files that a killed process had begun to write. Only the owner of the files may call it: another process may be writing one.
 * @param isOwn gets the name of the file that was to be replaced; default: all are the caller's
 * @throws the system's error, but not where the directory is missing
 */
export async function removePartials(
  directory: string,
  isOwn: (name: string) => boolean = () => true,
): Promise<void> {
  const names = await readdir(directory).catch((error: unknown) => {
    if (isSystemError(error, 'ENOENT', 'ENOTDIR')) return [];
    throw error;
  });
  for (const name of names) {
    const replaced = PARTIAL_NAME.exec(name)?.[1];
    if (replaced !== undefined && isOwn(replaced)) await rm(join(directory, name), { force: true });
  }
}

/** Deletes a file if it is there. The deletion survives a power cut. */
export async function removeDurably(path: string): Promise<void> {
  await rm(path, { force: true });
  await syncDirectory(dirname(path));
}

/** Makes the entries of a directory (creations, renames, deletions) survive a power cut. */
export async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Creates a directory and its parents; each new entry survives a power cut. */
export async function makeDirectory(path: string, mode = 0o755): Promise<void> {
  let first: string | undefined;
  try {
    first = await mkdir(path, { recursive: true, mode }).catch(async (error: unknown) => {
      // A recursive one of Node 20 says ENOENT where the system says ENOSPC.
      if (!isSystemError(error, 'ENOENT')) throw error;
      await mkdir(path, { mode });
      return path;
    });
  } catch (error) {
    throw withRoom(error, path, DIRECTORY_BYTES);
  }
  if (first === undefined) return;
  const last = resolve(first);
  for (let created = resolve(path); created.length >= last.length; created = dirname(created)) {
    await syncDirectory(dirname(created));
  }
}
