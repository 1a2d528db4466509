import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

const PREFIX = 'sc-';

/**
 * What tests and the processes that they start make in the directory for temporary files, they make in one of this run, which goes with it.
 * Its name is short: the path of a socket has 107 bytes at most. The configuration is read once for each project and worker; the first one makes it.
 */
if (!basename(tmpdir()).startsWith(PREFIX)) {
  const directory = mkdtempSync(join(tmpdir(), PREFIX));
  process.env.TMPDIR = directory;
  process.on('exit', () => rmSync(directory, { recursive: true, force: true, maxRetries: 3 }));
}
