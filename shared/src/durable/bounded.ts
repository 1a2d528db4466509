import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { isSystemError, SitecastError } from '../errors.ts';

/** Without O_NONBLOCK, `open` of a pipe waits for a writer, before the code can find out that it is a pipe. */
const READ_NOW = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/** How long the writer of a pipe may be silent. */
const PIPE_SILENCE_MS = 60_000;
/** How often an empty pipe is polled. */
const PIPE_POLL_MS = 20;

/**
 * Reads a whole regular file of at most `maxBytes`.
 * @throws SITECAST_FILE_TOO_LARGE when it holds more; SITECAST_NOT_A_FILE; the system's error (ENOENT, EACCES …) otherwise
 */
export async function readFileBounded(path: string, maxBytes: number): Promise<Buffer> {
  const opened = await openBounded(path, maxBytes);
  try {
    return await readFromHandle(path, opened, maxBytes);
  } finally {
    await opened.handle.close();
  }
}

/** As `readFileBounded`, for a file that `openBounded` has opened. */
export async function readFromHandle(
  path: string,
  { handle, lengthBytes }: { handle: FileHandle; lengthBytes: number },
  maxBytes: number,
): Promise<Buffer> {
  // The buffer has one byte more than the file. The length check below notices a file that grows while it is read.
  const buffer = Buffer.allocUnsafe(lengthBytes + 1);
  let filled = 0;
  for (;;) {
    const { bytesRead } = await handle.read(buffer, filled, buffer.length - filled, filled);
    filled += bytesRead;
    if (bytesRead === 0) return buffer.subarray(0, filled);
    if (filled > lengthBytes) throw tooLarge(path, maxBytes);
  }
}

/**
 * Reads a small secret: a regular file, or what comes through a pipe (`/dev/stdin`, a shell's `<(…)`) until its end.
 * @throws SITECAST_PIPE_SILENT when nothing, or no end, comes through the pipe; else as `readFileBounded`
 */
export async function readSecretBounded(path: string, maxBytes: number): Promise<Buffer> {
  const handle = await open(path, READ_NOW);
  try {
    if ((await handle.stat()).isFIFO()) return await readPipe(path, handle, maxBytes);
    return await readFromHandle(
      path,
      { handle, lengthBytes: await lengthOf(path, handle, maxBytes) },
      maxBytes,
    );
  } finally {
    await handle.close();
  }
}

/** @param silenceMs how long the writer may be silent; tests set it */
export async function readPipe(
  path: string,
  handle: FileHandle,
  maxBytes: number,
  silenceMs = PIPE_SILENCE_MS,
): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(maxBytes + 1);
  let filled = 0;
  let silentSinceMs = performance.now();
  while (performance.now() - silentSinceMs < silenceMs) {
    const bytesRead = await readNow(handle, buffer, filled);
    // This is the end of the pipe. Before the first byte it can also mean that the writer hasn't opened the pipe yet.
    if (bytesRead === 0 && filled > 0) return buffer.subarray(0, filled);
    if (bytesRead === undefined || bytesRead === 0) {
      await delay(PIPE_POLL_MS);
      continue;
    }
    filled += bytesRead;
    silentSinceMs = performance.now();
    if (filled > maxBytes) throw tooLarge(path, maxBytes);
  }
  throw new SitecastError(
    'badInput',
    'SITECAST_PIPE_SILENT',
    `${path} is a pipe, and ${filled === 0 ? 'nothing came through it' : 'its writer did not close it'} for ${silenceMs / 1000} s`,
  );
}

/** @returns undefined when no bytes are there yet */
async function readNow(handle: FileHandle, buffer: Buffer, filled: number): Promise<number | undefined> {
  try {
    return (await handle.read(buffer, filled, buffer.length - filled, null)).bytesRead;
  } catch (error) {
    if (isSystemError(error, 'EAGAIN')) return undefined;
    throw error;
  }
}

/** Opens a regular file for reading if it holds at most `maxBytes`. The caller closes the handle. */
export async function openBounded(
  path: string,
  maxBytes: number,
): Promise<{ handle: FileHandle; lengthBytes: number }> {
  const handle = await open(path, READ_NOW);
  try {
    return { handle, lengthBytes: await lengthOf(path, handle, maxBytes) };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function lengthOf(path: string, handle: FileHandle, maxBytes: number): Promise<number> {
  const found = await handle.stat();
  if (!found.isFile())
    throw new SitecastError('badInput', 'SITECAST_NOT_A_FILE', `${path} is not a regular file`);
  if (found.size > maxBytes) throw tooLarge(path, maxBytes);
  return found.size;
}

function tooLarge(path: string, maxBytes: number): SitecastError {
  return new SitecastError(
    'tooLarge',
    'SITECAST_FILE_TOO_LARGE',
    `${path} holds more than ${maxBytes} bytes`,
    {
      data: { path, maxBytes },
    },
  );
}
