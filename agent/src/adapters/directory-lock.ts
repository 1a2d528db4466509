import { randomBytes } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { createFileDurably, readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';

const FILE_NAME = 'lock';
const MAX_LOCK_BYTES = 64;
const SECRET = /^[0-9a-f]{32}$/;

/**
 * One process owns a data directory. The lock is a socket in Linux's abstract namespace: the kernel gives its name to
 * one process alone and takes it back however that process ends, so there's no stale lock to judge. The name holds a
 * secret of the directory, that no other user can take it.
 */
export class DirectoryLock {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** @throws SITECAST_DATA_IN_USE */
  static async take(directory: string): Promise<DirectoryLock> {
    const { dev, ino } = await stat(directory);
    const name = `\0sitecast-agent-${dev}-${ino}-${await secretOf(directory)}`;
    const server = createServer(socket => socket.destroy());
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(name, resolve);
      });
    } catch (cause) {
      if (!isSystemError(cause, 'EADDRINUSE')) throw cause;
      throw new SitecastError(
        'conflict',
        'SITECAST_DATA_IN_USE',
        `another sitecast-agent owns ${directory}`,
        {
          hint: 'stop it first; or talk to it with `sitecast-agent status|check|update`',
          data: { directory },
          cause,
        },
      );
    }
    server.on('error', () => {
      // Whoever connects gets nothing here anyway.
    });
    server.unref();
    return new DirectoryLock(server);
  }

  async release(): Promise<void> {
    await new Promise<void>(resolve => {
      this.#server.close(() => resolve());
    });
  }
}

async function secretOf(directory: string): Promise<string> {
  const path = join(directory, FILE_NAME);
  const found = await read(path);
  if (found !== undefined && SECRET.test(found)) return found;
  const secret = randomBytes(16).toString('hex');
  if (found !== undefined) {
    // Damaged: nobody else can be there by the name that it made.
    await writeFileDurably(path, secret, 0o600);
    return secret;
  }
  try {
    await createFileDurably(path, secret, 0o600);
    return secret;
  } catch (error) {
    if (!isSystemError(error, 'EEXIST')) throw error;
    // Another agent that starts at this moment was faster.
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
