import { randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { forEachBounded } from '@sitecast/shared/async';
import { type ChunkIndex, type ChunkStore, HttpStore, verifying } from '@sitecast/shared/content';
import { diskFull } from '@sitecast/shared/durable';
import { isSystemError } from '@sitecast/shared/errors';
import type { ImageSource } from '../../deltas/maker/index.ts';
import type { OriginClient } from '../origin/client.ts';
import { byteProgress } from '../terminal.ts';
import { type LocalImage, readFully } from './local-image.ts';

/** Chunks that are fetched at one time. */
const CHUNKS_AT_ONCE = 8;

interface CopyRequest {
  index: ChunkIndex;
  /** An image on this machine: what it holds isn't fetched. */
  local: LocalImage;
  origin: OriginClient;
  /** Where the copy lies: on a file system with as much space as the image is long. */
  directory: string;
  /** For people. */
  title: string;
  quiet: boolean;
}

/**
 * Copies a published image to this machine, into a file without a name, so that nothing is left of it however this process ends. Each
 * chunk is checked by its id.
 * @throws SITECAST_NO_SPACE; SITECAST_CHUNK_NOT_FOUND where the origin has lost one, SITECAST_STORE_UNREACHABLE, SITECAST_CHUNK_MISMATCH, as `LocalImage.plain`
 */
export async function copyPublished(
  request: CopyRequest,
): Promise<{ source: ImageSource; close: () => Promise<void> }> {
  const { index, origin, directory, title, quiet } = request;
  const file = await namelessFile(directory);
  const store = new HttpStore(new URL('chunks', origin.url).href, { via: origin.connections });
  const display = byteProgress(`fetching ${title}`, quiet, 'fetched');
  try {
    await file.truncate(index.lengthBytes);
    await fill(request, verifying(store), file, (readBytes, sentBytes) =>
      display.update({ readBytes, totalBytes: index.lengthBytes, sentBytes }),
    );
  } catch (error) {
    await file.close();
    if (!isSystemError(error, 'ENOSPC', 'EDQUOT')) throw error;
    const what = `a copy of ${title} in --state`;
    throw diskFull('machine', directory, { cause: error, neededBytes: index.lengthBytes, what });
  } finally {
    display.stop();
    store.close();
  }
  const read = (offset: number, lengthBytes: number) => readCopy(file, offset, lengthBytes);
  return { source: { index, read }, close: () => file.close() };
}

async function fill(
  { index, local }: CopyRequest,
  store: ChunkStore,
  file: FileHandle,
  onProgress: (doneBytes: number, fetchedBytes: number) => void,
): Promise<void> {
  let [doneBytes, fetchedBytes] = [0, 0];
  const write = async (at: number, plain: Uint8Array): Promise<void> => {
    await file.write(plain, 0, plain.length, index.startOf(at));
    doneBytes += plain.length;
    onProgress(doneBytes, fetchedBytes);
  };
  const numbers = Array.from({ length: index.count }, (_, at) => at);
  const firstOf = (at: number): number => index.find(index.idAt(at)) ?? at;
  await forEachBounded(
    numbers.filter(at => firstOf(at) === at),
    CHUNKS_AT_ONCE,
    async at => {
      const id = index.idAt(at);
      const here = local.index.find(id);
      if (here !== undefined) {
        await write(at, await local.plain(here));
        return;
      }
      const chunk = await store.get(id, { lengthBytes: index.lengthOf(at) });
      fetchedBytes += chunk.ready().bytes.length;
      await write(at, chunk.plain());
    },
  );
  for (const at of numbers)
    if (firstOf(at) !== at)
      await write(at, await readCopy(file, index.startOf(firstOf(at)), index.lengthOf(at)));
}

/** A file that goes with this process. */
async function namelessFile(directory: string): Promise<FileHandle> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, `base-${randomBytes(8).toString('hex')}`);
  const file = await open(path, 'wx+', 0o600);
  try {
    await unlink(path);
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function readCopy(file: FileHandle, offset: number, lengthBytes: number): Promise<Buffer> {
  const bytes = await readFully(file, offset, lengthBytes);
  if (bytes) return bytes;
  throw new Error('the copy of an image ended early');
}
