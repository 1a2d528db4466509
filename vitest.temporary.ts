import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/**
 * What tests and the processes that they start make in the directory for temporary files, they make in one of this run, which goes with it.
 * Its name is short: the path of a socket has 107 bytes at most. The configuration is read once for each project: the first time counts.
 */
if (process.env.SITECAST_TEST_TMPDIR === undefined) {
  const directory = mkdtempSync(join(tmpdir(), 'sc-'));
  // As /tmp is: some tests start programs as other users.
  chmodSync(directory, 0o1777);
  process.env.SITECAST_TEST_TMPDIR = process.env.TMPDIR = directory;
  process.on('exit', () => rmSync(directory, { recursive: true, force: true, maxRetries: 3 }));
}
