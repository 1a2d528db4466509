import type { Socket } from 'node:net';

/** How long arriving bytes wait in the system's buffers. At 1 Gbit/s that is 1.25 MB over all connections. */
const TICK_MS = 10;
/** The same where the last tick brought little: then hardly anything waits. */
const LITTLE_TICK_MS = 20;
/** At 25 Mbit/s so much comes in 10 ms. */
const LITTLE_BYTES = 32 * 1024;
const BUFFER_BYTES = 256 * 1024;

/**
 * Reads connections together, at ticks. Over a thin link a process is woken for nearly each segment otherwise, some 20,000 times for 32 MiB; so
 * it reads what has come in 10 or 20 ms at once, and sleeps between. Sockets are those that node:net opens with `onread` and `buffer`: in
 * between they are paused, and nothing is queued in this process. There is a timer only while bytes flow.
 */
class ReadTicks {
  #buffer: Buffer | undefined;
  readonly #read = new Set<Socket>();
  readonly #paused = new Set<Socket>();
  #timer: NodeJS.Timeout | undefined;
  /** Since the last tick. */
  #readBytes = 0;

  /** One for all sockets: what is read is used up within one callback. */
  readonly buffer = (): Buffer => {
    this.#buffer ??= Buffer.allocUnsafeSlow(BUFFER_BYTES);
    return this.#buffer;
  };

  /** So many bytes of the socket were read, and more are expected: it is read again at the next tick. */
  join(socket: Socket, lengthBytes: number): void {
    this.#readBytes += lengthBytes;
    if (this.#read.size === 0) setImmediate(() => this.#endTurn());
    this.#read.add(socket);
  }

  /** Nothing more is expected for the present: the socket is read whenever something comes. */
  leave(socket: Socket): void {
    this.#read.delete(socket);
    if (this.#paused.delete(socket) && !socket.destroyed) socket.resume();
    if (this.#paused.size > 0) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** All that had come was read. */
  #endTurn(): void {
    for (const socket of this.#read) {
      socket.pause();
      this.#paused.add(socket);
    }
    this.#read.clear();
    const tickMs = this.#readBytes < LITTLE_BYTES ? LITTLE_TICK_MS : TICK_MS;
    if (this.#paused.size > 0) this.#timer ??= setTimeout(() => this.#tick(), tickMs);
  }

  #tick(): void {
    this.#timer = undefined;
    this.#readBytes = 0;
    const sockets = [...this.#paused];
    this.#paused.clear();
    for (const socket of sockets) socket.resume();
  }
}

export const readTicks = new ReadTicks();
