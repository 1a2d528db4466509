import type { SecureContext } from 'node:tls';
import { ByteWindow } from '../bounded/index.ts';
import { isSystemError } from '../errors.ts';
import { type BulkAnswer, BulkConnection, NotPlain } from './bulk-connection.ts';
import { CONNECT_TIMEOUT_MS } from './pool.ts';

const FORBIDDEN = /[\r\n\0]/;

export interface BulkRequest {
  readonly headers?: Readonly<Record<string, string>> | undefined;
  readonly signal?: AbortSignal | undefined;
  /** From the moment of a connection until the answer is read. */
  readonly deadlineMs?: number | undefined;
  /** The longest time in which a connected server sends no byte. */
  readonly silenceMs?: number | undefined;
  readonly silenceText?: string | undefined;
  /** Of the body. */
  readonly maxBytes: number;
  /** For the body, where it is long enough. */
  readonly memory?: Uint8Array | undefined;
}

/** Connections to one server for many GET requests of bodies that fit into memory, read in ticks. */
export class BulkPool {
  readonly #trusted: SecureContext | undefined;
  /** A place for each connection. */
  readonly #places: ByteWindow;
  readonly #free = new Set<BulkConnection>();
  #isClosed = false;

  constructor({ maxSockets, trusted }: { maxSockets: number; trusted: SecureContext | undefined }) {
    this.#trusted = trusted;
    this.#places = new ByteWindow(maxSockets, maxSockets);
  }

  /**
   * @param read gets the answer while its connection is held
   * @throws NotPlain: the same request is one for node:http; what `read` throws; what broke the connection
   */
  async get<T>(url: URL, request: BulkRequest, read: (answer: BulkAnswer) => Promise<T>): Promise<T> {
    const head = headOf(url, request.headers);
    await this.#places.take(1, request.signal);
    try {
      for (;;) {
        const connection = await this.#connected(url, request);
        const isReused = connection.answers > 0;
        let isAnswered = false;
        const noteAnswer = (answer: BulkAnswer): Promise<T> => {
          isAnswered = true;
          return read(answer);
        };
        try {
          return await this.#exchange(connection, head, request, noteAnswer);
        } catch (error) {
          request.signal?.throwIfAborted();
          // A server may close a kept connection just when it is used again.
          if (isReused && !isAnswered && isSystemError(error, 'ECONNRESET', 'EPIPE')) continue;
          throw error;
        }
      }
    } finally {
      this.#places.give(1);
    }
  }

  /** Closes the kept connections. */
  close(): void {
    this.#isClosed = true;
    for (const connection of this.#free) connection.destroy();
  }

  async #connected(url: URL, { signal }: BulkRequest): Promise<BulkConnection> {
    for (const connection of this.#free) {
      this.#free.delete(connection);
      if (!connection.isFree) continue;
      connection.socket.ref();
      return connection;
    }
    return BulkConnection.open(url, {
      trusted: this.#trusted,
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      signal,
      onClose: connection => this.#free.delete(connection),
    });
  }

  async #exchange<T>(
    connection: BulkConnection,
    head: string,
    { signal, deadlineMs, silenceMs, silenceText, maxBytes, memory }: BulkRequest,
    read: (answer: BulkAnswer) => Promise<T>,
  ): Promise<T> {
    const { socket } = connection;
    const stop = (): void => connection.destroy(new Error('aborted'));
    const beSilent = (): void =>
      connection.destroy(new Error(silenceText ?? `nothing came for ${silenceMs} ms`));
    const deadline =
      deadlineMs === undefined
        ? undefined
        : setTimeout(() => connection.destroy(new Error(`not done in ${deadlineMs} ms`)), deadlineMs);
    signal?.addEventListener('abort', stop, { once: true });
    if (silenceMs !== undefined) socket.setTimeout(silenceMs).once('timeout', beSilent);
    try {
      signal?.throwIfAborted();
      return await read(await connection.ask(head, maxBytes, memory));
    } finally {
      clearTimeout(deadline);
      signal?.removeEventListener('abort', stop);
      socket.setTimeout(0).off('timeout', beSilent);
      if (connection.isFree && !this.#isClosed) {
        socket.unref();
        this.#free.add(connection);
      } else connection.destroy();
    }
  }
}

/** @throws NotPlain for what no request of ours has */
function headOf(url: URL, headers: Readonly<Record<string, string>> = {}): string {
  const lines = [`GET ${url.pathname}${url.search} HTTP/1.1`, `host: ${url.host}`, 'connection: keep-alive'];
  for (const [name, value] of Object.entries(headers)) lines.push(`${name}: ${value}`);
  if (lines.some(line => FORBIDDEN.test(line))) throw new NotPlain('a header of more than a line');
  return `${lines.join('\r\n')}\r\n\r\n`;
}
