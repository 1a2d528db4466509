import { chmod, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';
import { CONTROL_COMMANDS, type ControlCommand } from '../ports.ts';

const FILE_NAME = 'control.sock';
const MAX_REQUEST_BYTES = 4096;
const MAX_ANSWER_BYTES = 1024 * 1024;
/** Linux's sun_path, without the terminating zero. */
const MAX_SOCKET_PATH_BYTES = 107;

const requestSchema = z.strictObject({ command: z.enum(CONTROL_COMMANDS) });

const answerSchema = z.union([
  z.strictObject({ result: z.unknown() }),
  z.strictObject({ error: z.strictObject({ code: z.string(), message: z.string() }) }),
]);

/** The daemon's side of the socket in the data directory: one JSON line in, one out. Only the daemon's own user may connect. */
export class ControlServer {
  readonly #server: Server;
  readonly #path: string;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server, path: string) {
    this.#server = server;
    this.#path = path;
  }

  /** The caller owns the directory, so an existing socket belongs to a daemon that has ended. */
  static async listen(
    directory: string,
    handle: (command: ControlCommand) => Promise<unknown>,
  ): Promise<ControlServer> {
    const path = socketPath(directory);
    await rm(path, { force: true });
    const server = createServer({ allowHalfOpen: true });
    const control = new ControlServer(server, path);
    server.on('connection', socket => control.#serve(socket, handle));
    const mask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(path, resolve);
      });
    } finally {
      process.umask(mask);
    }
    // For example when there are no more file descriptors. The client must try again.
    server.on('error', () => {});
    await chmod(path, 0o600);
    return control;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>(resolve => {
      this.#server.close(() => resolve());
    });
    await rm(this.#path, { force: true });
  }

  #serve(socket: Socket, handle: (command: ControlCommand) => Promise<unknown>): void {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    socket.on('error', () => {
      // The client has disconnected, so nothing can be sent.
    });
    readLine(socket, MAX_REQUEST_BYTES)
      .then(line => handle(requestSchema.parse(JSON.parse(line)).command))
      .then(
        result => socket.end(`${JSON.stringify({ result: result ?? null })}\n`),
        (error: unknown) => socket.end(`${JSON.stringify({ error: described(error) })}\n`),
      );
  }
}

/**
 * Asks the daemon that owns a data directory.
 * @returns undefined if there is no daemon
 * @throws SITECAST_DAEMON_REFUSED with the daemon's message
 */
export async function askDaemon(
  directory: string,
  command: ControlCommand,
): Promise<{ result: unknown } | undefined> {
  const socket = connect(socketPath(directory));
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
  } catch (error) {
    if (isSystemError(error, 'ENOENT', 'ECONNREFUSED')) return undefined;
    throw error;
  }
  socket.write(`${JSON.stringify({ command })}\n`);
  const answer = answerSchema.parse(JSON.parse(await readLine(socket, MAX_ANSWER_BYTES)));
  socket.destroy();
  if ('result' in answer) return { result: answer.result };
  const { code, message } = answer.error;
  throw new SitecastError('failed', 'SITECAST_DAEMON_REFUSED', message, { data: { code } });
}

function socketPath(directory: string): string {
  const path = join(directory, FILE_NAME);
  if (Buffer.byteLength(path) <= MAX_SOCKET_PATH_BYTES) return path;
  throw new SitecastError(
    'badInput',
    'SITECAST_DATA_PATH_TOO_LONG',
    `${directory} is too long a path for the socket in it`,
    { hint: `choose one of at most ${MAX_SOCKET_PATH_BYTES - FILE_NAME.length - 1} bytes` },
  );
}

/** Reads a line. The socket stays open for the answer. */
function readLine(socket: Socket, maxBytes: number): Promise<string> {
  return new Promise<string>((resolve, reject) => {
    let text = '';
    // A character of several bytes may be split between two packets.
    socket.setEncoding('utf8');
    socket.on('data', part => {
      text += String(part);
      if (text.endsWith('\n')) resolve(text);
      else if (text.length > maxBytes) reject(new RangeError('too long a line'));
    });
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('the other side has hung up')));
  });
}

function described(error: unknown): { code: string; message: string } {
  const message = error instanceof Error ? error.message : String(error);
  return { code: error instanceof SitecastError ? error.code : 'SITECAST_INTERNAL', message };
}
