import type { Socket } from 'node:net';

/** How long arriving bytes wait in the system's buffers. At 1 Gbit/s that is 1.25 MB over all connections. */
const TICK_MS = 10;
const BUFFER_BYTES = 256 * 1024;

/**
 * Reads connections together, at ticks. Over a thin link a process is woken for nearly each segment otherwise, some 20,000 times for 32 MiB; so
 * it reads what has come in 10 ms at once, and sleeps between. Sockets are those that node:net opens with `onread` and `buffer`: in
 * between they are paused, and nothing is queued in this process. There is a timer only while bytes flow.
 */
class ReadTicks {
  #buffer: Buffer | undefined;
  readonly #read = new Set<Socket>();
  readonly #paused = new Set<Socket>();
  #timer: NodeJS.Timeout | undefined;

  /** One for all sockets: what is read is used up within one callback. */
  readonly buffer = (): Buffer => {
    this.#buffer ??= Buffer.allocUnsafeSlow(BUFFER_BYTES);
    return this.#buffer;
  };

  /** The socket was read, and more is expected: it is read again at the next tick. */
  join(socket: Socket): void {
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
    if (this.#paused.size > 0) this.#timer ??= setTimeout(() => this.#tick(), TICK_MS);
  }

  #tick(): void {
    this.#timer = undefined;
    const sockets = [...this.#paused];
    this.#paused.clear();
    for (const socket of sockets) socket.resume();
  }
}

export const readTicks = new ReadTicks();
