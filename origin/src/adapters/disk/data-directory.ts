import type { DeltaWork } from '../../deltas/delta-work.ts';
import type { KeyStore } from '../../keys/key-store.ts';
import type { Log } from '../../log.ts';
import type { PublishedChunks, RepositoryStore } from '../../repository/repository-store.ts';
import type { ChunkStaging, FileStaging } from '../../staging/ports.ts';
import { DiskChunks, type LocalChunks } from './chunks.ts';
import { DiskDeltaWork } from './delta-work.ts';
import { DiskFiles } from './disk-files.ts';
import { DiskFileStaging } from './file-staging.ts';
import type { Files } from './files.ts';
import { DiskKeyStore } from './key-store.ts';
import { prepareDataDirectory } from './layout.ts';
import { DiskRepository } from './repository-store.ts';
import { ThreadedChunks } from './threaded-chunks.ts';

/** What an origin stores besides its database. */
export interface DataDirectory {
  published: RepositoryStore;
  publishedChunks: PublishedChunks;
  chunks: ChunkStaging;
  staged: FileStaging;
  keyStore: KeyStore;
  deltaWork: DeltaWork;
}

interface Options {
  now: () => number;
  log: Log;
}

/**
 * Opens a data directory, with its work on chunks in a thread.
 * @param directory absolute; this process holds its lock
 */
export async function openDataDirectory(
  directory: string,
  { maxStagedBytes, ...options }: Options & { maxStagedBytes: number },
): Promise<DataDirectory & { close: () => Promise<void> }> {
  const files = new DiskFiles(directory);
  await prepareDataDirectory(files);
  const chunks = await ThreadedChunks.open({ root: directory, maxStagedBytes });
  return { ...(await storesOn(files, chunks, options)), close: () => chunks.close() };
}

/** The stores on a directory that is prepared. */
export async function storesOn(
  files: Files,
  chunks: LocalChunks,
  { now, log }: Options,
): Promise<DataDirectory> {
  const staged = await DiskFileStaging.open(files, now);
  return {
    published: await DiskRepository.open({ files, chunks, staged, now, log }),
    publishedChunks: new DiskChunks(files, chunks),
    chunks,
    staged,
    keyStore: new DiskKeyStore(files),
    deltaWork: new DiskDeltaWork(files, log),
  };
}
