import { connect, isIP, type Socket } from 'node:net';
import { connect as connectTls, type SecureContext } from 'node:tls';
import { hostOf, portOf } from './proxies.ts';
import { readTicks } from './read-ticks.ts';
import { timedOut } from './tunnel.ts';

// A server, or a machine on the way, sends this. The worst: a head without end, a length beyond any chunk's, another framing than a length,
// bytes after the answer. All of it is refused here before memory is allocated; node:http then reads it, with its own bounds.

const MAX_HEAD_BYTES = 16 * 1024;
/** An answer with another status than 200 has an error's text. */
const MAX_ERROR_BYTES = 64 * 1024;
const STATUS_LINE = /^HTTP\/1\.1 ([2-5]\d\d)(?: |$)/;
const FIELD_NAME = /^[!#$%&'*+.^`|~\w-]+$/;
const NEVER_IN_FIELD = /[\r\n\0]/;
const LENGTH = /^\d{1,10}$/;
const HEAD_END = '\r\n\r\n';
/** Answers without a body, whatever their length says (RFC 9112, section 6.3). */
const WITHOUT_BODY: ReadonlySet<number> = new Set([204, 205, 304]);

/** The answer isn't of the one form that is read here. */
export class NotPlain extends Error {
  /** Bytes of it that were read in vain. */
  receivedBytes = 0;
}

export interface BulkAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** The whole body: in memory of the connection that its next answer overwrites, or in the request's own. */
  readonly body: Promise<Buffer>;
}

interface Asked {
  readonly maxBytes: number;
  readonly memory: Uint8Array | undefined;
  readonly onHead: (answer: BulkAnswer) => void;
  readonly fail: (error: Error) => void;
  head: string;
  receivedBytes: number;
  body: Buffer | undefined;
  filledBytes: number;
  finish: (body: Buffer) => void;
  failBody: (error: Error) => void;
}

interface BulkConnectionOptions {
  readonly trusted: SecureContext | undefined;
  readonly connectTimeoutMs: number;
  readonly signal: AbortSignal | undefined;
  /** Called when it can't be used any more. */
  readonly onClose: (connection: BulkConnection) => void;
}

/**
 * One connection for GET requests, one after the other, that reads in ticks (`read-ticks.ts`). It is strict: an answer has a length,
 * and nothing follows it.
 */
export class BulkConnection {
  readonly socket: Socket;
  /** Answers so far. */
  answers = 0;
  #asked: Asked | undefined;
  /** As long as the longest body so far. New memory for each body would be garbage, which is freed late. */
  #memory: Buffer = Buffer.alloc(0);
  #isOver = false;
  #isLast = false;
  #error: Error | undefined;

  private constructor(url: URL, { trusted, onClose }: BulkConnectionOptions) {
    const onread = {
      buffer: readTicks.buffer,
      callback: (lengthBytes: number, buffer: Uint8Array): boolean => {
        this.#take(Buffer.from(buffer.buffer, buffer.byteOffset, lengthBytes));
        return true;
      },
    };
    const host = hostOf(url);
    const place = { host, port: portOf(url), noDelay: true, onread };
    this.socket =
      url.protocol === 'https:'
        ? connectTls({
            ...place,
            ...(isIP(host) === 0 && { servername: host }),
            ALPNProtocols: ['http/1.1'],
            ...(trusted && { secureContext: trusted }),
          })
        : connect(place);
    this.socket.on('error', error => {
      this.#error ??= error;
    });
    this.socket.once('close', () => {
      this.#isOver = true;
      readTicks.leave(this.socket);
      const asked = this.#asked;
      this.#asked = undefined;
      const error = this.#error ?? hungUp();
      asked?.failBody(error);
      asked?.fail(error);
      onClose(this);
    });
  }

  /** @throws why it can't connect */
  static async open(url: URL, options: BulkConnectionOptions): Promise<BulkConnection> {
    const { connectTimeoutMs, signal } = options;
    const connection = new BulkConnection(url, options);
    const { socket } = connection;
    const stop = (): void => void socket.destroy(new Error('aborted'));
    const timer = setTimeout(() => socket.destroy(timedOut(connectTimeoutMs)), connectTimeoutMs);
    signal?.addEventListener('abort', stop, { once: true });
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once(url.protocol === 'https:' ? 'secureConnect' : 'connect', resolve);
        socket.once('close', () => reject(connection.#error ?? hungUp()));
      });
      return connection;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
    }
  }

  /** Whether it can take another request. */
  get isFree(): boolean {
    return !this.#isOver && !this.#isLast && this.#asked === undefined && !this.socket.destroyed;
  }

  /**
   * Resolves when the head of the answer is there.
   * @param head of the request, with the empty line at its end
   * @param maxBytes of the body; a longer one isn't plain
   * @param memory for the body, where it is long enough
   * @throws NotPlain; what broke the connection
   */
  ask(head: string, maxBytes: number, memory?: Uint8Array): Promise<BulkAnswer> {
    return new Promise((resolve, reject) => {
      if (!this.isFree) throw new TypeError('a connection takes one request at a time');
      this.#asked = {
        maxBytes,
        memory,
        onHead: resolve,
        fail: reject,
        head: '',
        receivedBytes: 0,
        body: undefined,
        filledBytes: 0,
        finish: () => {},
        failBody: () => {},
      };
      this.socket.write(head, 'latin1');
    });
  }

  destroy(error?: Error): void {
    this.#error ??= error;
    this.socket.destroy();
  }

  /** The bytes are in memory that all connections share, so they must be copied. */
  #take(bytes: Buffer): void {
    const asked = this.#asked;
    if (!asked) {
      this.destroy(new NotPlain('bytes that nobody asked for'));
      return;
    }
    asked.receivedBytes += bytes.length;
    try {
      const from = asked.body ? 0 : this.#takeHead(asked, bytes);
      if (asked.body) this.#takeBody(asked, asked.body, bytes.subarray(from));
    } catch (error) {
      if (error instanceof NotPlain) error.receivedBytes = asked.receivedBytes;
      this.destroy(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** @returns where the body begins */
  #takeHead(asked: Asked, bytes: Buffer): number {
    const before = asked.head.length;
    // Nearly always a head arrives whole, followed by much of the body, which needn't be converted to text.
    const endsAt = before === 0 ? bytes.indexOf(HEAD_END, 0, 'latin1') : -1;
    const headBytes = endsAt < 0 ? bytes.length : endsAt + HEAD_END.length;
    asked.head += bytes.toString('latin1', 0, Math.min(headBytes, MAX_HEAD_BYTES));
    const end = asked.head.indexOf(HEAD_END, Math.max(0, before - HEAD_END.length));
    if (end < 0) {
      if (asked.head.length >= MAX_HEAD_BYTES) throw new NotPlain('a head that is too long');
      return bytes.length;
    }
    const { status, headers } = readHead(asked.head.slice(0, end));
    const lengthBytes = lengthOf(status, headers, asked.maxBytes);
    if (headers.connection?.toLowerCase() === 'close') this.#isLast = true;
    asked.body = this.#memoryFor(asked, lengthBytes);
    const body = new Promise<Buffer>((resolve, reject) => {
      asked.finish = resolve;
      asked.failBody = reject;
    });
    // A caller that doesn't read the body doesn't need its error.
    body.catch(() => {});
    asked.onHead({ status, headers, body });
    return end + HEAD_END.length - before;
  }

  #memoryFor({ memory }: Asked, lengthBytes: number): Buffer {
    if (memory && memory.length >= lengthBytes)
      return Buffer.from(memory.buffer, memory.byteOffset, lengthBytes);
    if (this.#memory.length < lengthBytes) this.#memory = Buffer.allocUnsafeSlow(lengthBytes);
    return this.#memory.subarray(0, lengthBytes);
  }

  #takeBody(asked: Asked, body: Buffer, bytes: Buffer): void {
    if (bytes.length > body.length - asked.filledBytes)
      throw new Error('more bytes came than the answer has');
    bytes.copy(body, asked.filledBytes);
    asked.filledBytes += bytes.length;
    if (asked.filledBytes < body.length) {
      readTicks.join(this.socket, bytes.length);
      return;
    }
    readTicks.leave(this.socket);
    this.#asked = undefined;
    this.answers += 1;
    asked.finish(body);
  }
}

function readHead(head: string): { status: number; headers: Record<string, string> } {
  const [first = '', ...lines] = head.split('\r\n');
  const status = Number(STATUS_LINE.exec(first)?.[1] ?? Number.NaN);
  if (!Number.isInteger(status)) throw new NotPlain('another status line');
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(0, colon));
    if (!FIELD_NAME.test(name) || NEVER_IN_FIELD.test(line)) throw new NotPlain('a header that is none');
    const value = withoutBlanks(line, colon + 1);
    const key = name.toLowerCase();
    if (key === 'transfer-encoding') throw new NotPlain('another framing than a length');
    if (key === 'content-length' && Object.hasOwn(headers, key)) throw new NotPlain('two lengths');
    if (key === 'content-length' || key === 'connection') headers[key] = value;
  }
  return { status, headers };
}

/** Without spaces and tabs at both ends. Each character is looked at once: a regular expression would take cubic time for a line of blanks. */
function withoutBlanks(line: string, from: number): string {
  const isBlank = (at: number): boolean => line[at] === ' ' || line[at] === '\t';
  let start = from;
  let end = line.length;
  while (start < end && isBlank(start)) start += 1;
  while (end > start && isBlank(end - 1)) end -= 1;
  return line.slice(start, end);
}

function lengthOf(status: number, headers: Readonly<Record<string, string>>, maxBytes: number): number {
  const text = headers['content-length'] ?? '';
  if (!LENGTH.test(text) || WITHOUT_BODY.has(status)) throw new NotPlain('an answer without a length');
  const lengthBytes = Number(text);
  if (lengthBytes > (status === 200 ? maxBytes : MAX_ERROR_BYTES)) throw new NotPlain('too long an answer');
  return lengthBytes;
}

function hungUp(): Error {
  return Object.assign(new Error('socket hang up'), { code: 'ECONNRESET' });
}
