import { randomBytes } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createFileDurably, readFileBounded, setAside } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { AbstractLock } from './abstract-lock.ts';

const FILE_NAME = 'lock';
const MAX_LOCK_BYTES = 64;
const SECRET = /^[0-9a-f]{32}$/;

/**
 * Makes this process the owner of a data directory, by an abstract socket's name. The name contains a secret of the directory, so no other
 * user can take it.
 * @throws SITECAST_DATA_IN_USE
 */
export async function lockDirectory(directory: string): Promise<AbstractLock> {
  const { dev, ino } = await stat(directory);
  const lock = await AbstractLock.take(`sitecast-agent-${dev}-${ino}-${await secretOf(directory)}`);
  if (lock) return lock;
  throw new SitecastError('conflict', 'SITECAST_DATA_IN_USE', `another sitecast-agent owns ${directory}`, {
    hint: 'stop it first; or talk to it with `sitecast-agent status|check|update`',
    data: { directory },
  });
}

async function secretOf(directory: string): Promise<string> {
  const path = join(directory, FILE_NAME);
  const found = await read(path);
  if (found !== undefined && SECRET.test(found)) return found;
  const secret = randomBytes(16).toString('hex');
  // The secret is damaged, so no other process holds a name made of it.
  if (found !== undefined) await setAside(path);
  try {
    await createFileDurably(path, secret, 0o600);
    return secret;
  } catch (error) {
    if (!isSystemError(error, 'EEXIST')) throw error;
    // Another agent that started at the same moment was faster.
    return (await read(path)) ?? secret;
  }
}

async function read(path: string): Promise<string | undefined> {
  try {
    return (await readFileBounded(path, MAX_LOCK_BYTES)).toString('utf8').trim();
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return undefined;
    if (isSystemError(error, 'EIO') || error instanceof SitecastError) return '';
    throw error;
  }
}
