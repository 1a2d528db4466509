import { createServer, type Server } from 'node:net';
import { isSystemError } from '@sitecast/shared/errors';

/** Length of `sun_path` after its first zero byte (unix(7)). */
const NAME_BYTES = 107;

/**
 * A lock by a name in Linux's abstract socket namespace. The kernel gives a name to one process at a time, and frees it however that
 * process ends. So no lock outlives its process.
 */
export class AbstractLock {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** @param name ASCII, 107 characters at the most @returns undefined where another process has the name */
  static async take(name: string): Promise<AbstractLock | undefined> {
    const server = createServer(socket => socket.destroy());
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        // Names of different lengths differ, and versions of libuv differ in whether they fill names up with zero bytes.
        server.listen(`\0${name.padEnd(NAME_BYTES, '\0')}`, resolve);
      });
    } catch (error) {
      if (isSystemError(error, 'EADDRINUSE')) return undefined;
      throw error;
    }
    server.on('error', () => {
      // A client gets nothing here anyway.
    });
    server.unref();
    return new AbstractLock(server);
  }

  async release(): Promise<void> {
    await new Promise<void>(resolve => {
      this.#server.close(() => resolve());
    });
  }
}
