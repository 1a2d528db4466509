import { type FileHandle, open } from 'node:fs/promises';
import { SitecastError } from '../errors.ts';

/**
 * Reads a whole regular file of at most `maxBytes`.
 * @throws SITECAST_FILE_TOO_LARGE when it holds more; the system's error (ENOENT, EACCES …) otherwise
 */
export async function readFileBounded(path: string, maxBytes: number): Promise<Buffer> {
  const opened = await openBounded(path, maxBytes);
  try {
    return await readFromHandle(path, opened, maxBytes);
  } finally {
    await opened.handle.close();
  }
}

/** The same for a file that `openBounded` has opened. */
export async function readFromHandle(
  path: string,
  { handle, lengthBytes }: { handle: FileHandle; lengthBytes: number },
  maxBytes: number,
): Promise<Buffer> {
  // One byte more than it had: a file that grows while it is read is caught by the length below.
  const buffer = Buffer.allocUnsafe(lengthBytes + 1);
  let filled = 0;
  for (;;) {
    const { bytesRead } = await handle.read(buffer, filled, buffer.length - filled, filled);
    filled += bytesRead;
    if (bytesRead === 0) return buffer.subarray(0, filled);
    if (filled > lengthBytes) throw tooLarge(path, maxBytes);
  }
}

/** Opens a regular file for reading if it holds at most `maxBytes`. The caller closes the handle. */
export async function openBounded(
  path: string,
  maxBytes: number,
): Promise<{ handle: FileHandle; lengthBytes: number }> {
  const handle = await open(path, 'r');
  try {
    const found = await handle.stat();
    if (!found.isFile())
      throw new SitecastError('badInput', 'SITECAST_NOT_A_FILE', `${path} is not a regular file`);
    if (found.size > maxBytes) throw tooLarge(path, maxBytes);
    return { handle, lengthBytes: found.size };
  } catch (error) {
    await handle.close();
    throw error;
  }
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
