import type { Log } from '../../../log.ts';
import { storesOn } from '../data-directory.ts';
import { DiskFiles } from '../disk-files.ts';
import { prepareDataDirectory } from '../layout.ts';
import { SyncDisk } from '../sync-disk.ts';
import { type Breaker, FailingFiles, FailingSyncFiles } from './failing-disk.ts';
import { localChunks } from './local-chunks.ts';

/**
 * A data directory for a test's origin.
 * @param breaker stands between the origin and the disk
 */
export function testDisk(path: string, breaker?: Breaker) {
  const disk = { files: new DiskFiles(path), syncFiles: new SyncDisk(path) };
  const { files, syncFiles } = breaker
    ? {
        files: new FailingFiles(disk.files, breaker),
        syncFiles: new FailingSyncFiles(disk.syncFiles, breaker),
      }
    : disk;
  return {
    async openData(options: { maxStagedBytes: number; now: () => number; log: Log }) {
      await prepareDataDirectory(files);
      const chunks = localChunks(syncFiles, options.maxStagedBytes, options.now);
      return await storesOn(files, chunks, options);
    },
  };
}
