import { DiskFiles } from '../disk-files.ts';
import { SyncDisk } from '../sync-disk.ts';
import { type Breaker, FailingFiles, FailingSyncFiles } from './failing-disk.ts';

/**
 * A data directory for a test's origin.
 * @param breaker stands between the origin and the disk
 */
export function testDisk(path: string, breaker?: Breaker) {
  const [files, syncFiles] = [new DiskFiles(path), new SyncDisk(path)];
  if (!breaker) return { files, syncFiles };
  return { files: new FailingFiles(files, breaker), syncFiles: new FailingSyncFiles(syncFiles, breaker) };
}
