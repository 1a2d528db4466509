import { Duplex } from 'node:stream';
import { callbackify } from 'node:util';
import type { Stream } from '@libp2p/interface';
import { Uint8ArrayList } from 'uint8arraylist';
import { isFull, MAX_UNSENT_BYTES, roomToWrite } from '../stream-room.ts';

type Done = (error?: Error | null) => void;

/** When the socket ends: how long the muxer may take to accept what was written. */
const FINISH_MS = 20_000;
/** How long a stream that this side has closed waits for the other side to close. */
const LINGER_MS = 5000;

/**
 * A libp2p stream as the socket that `node:http` needs, on either side. A slow reader pauses the stream; writing waits for a slow peer.
 */
export class StreamSocket extends Duplex {
  /** Whether the stream is still being opened; `connect` is emitted when it is open, as by a socket. */
  connecting = false;
  #opening: Promise<Stream> | undefined;
  #stream: Stream | undefined;
  #idleTimer: NodeJS.Timeout | undefined;
  #idleMs = 0;

  /**
   * @param stream if given as a promise, the socket exists at once: `http.Agent` counts only existing sockets, so its `maxSockets` wouldn't
   * apply to streams that are being opened
   */
  constructor(stream: Stream | Promise<Stream>) {
    super({ allowHalfOpen: true, emitClose: true, highWaterMark: MAX_UNSENT_BYTES });
    if (stream instanceof Promise) {
      this.connecting = true;
      this.#opening = stream;
    } else this.#take(stream);
  }

  override _construct(done: Done): void {
    if (this.#opening === undefined) {
      done();
      return;
    }
    const opened = callbackify(() => this.#opened(this.#opening));
    opened(error => {
      done(error);
      if (!this.connecting) this.emit('connect');
    });
  }

  override _read(): void {
    if (this.#stream?.readStatus === 'paused') this.#stream.resume();
  }

  override _write(bytes: Uint8Array, _encoding: BufferEncoding, done: Done): void {
    callbackify(() => this.#send(bytes))(done);
  }

  override _writev(pieces: { chunk: Uint8Array }[], done: Done): void {
    const bytes = new Uint8ArrayList(...pieces.map(({ chunk }) => chunk));
    callbackify(() => this.#send(bytes))(done);
  }

  override _final(done: Done): void {
    callbackify(() => this.#closeWriting())(done);
  }

  override _destroy(error: Error | null, done: Done): void {
    clearTimeout(this.#idleTimer);
    this.#reset(error);
    done(error);
  }

  /** Like `net.Socket.setTimeout`: emits `timeout` when no byte passes for this long; 0 turns it off. */
  setTimeout(idleMs: number, listener?: () => void): this {
    clearTimeout(this.#idleTimer);
    this.#idleTimer = undefined;
    this.#idleMs = idleMs;
    if (listener !== undefined) {
      if (idleMs > 0) this.once('timeout', listener);
      else this.removeListener('timeout', listener);
    }
    if (idleMs > 0) this.#idleTimer = setTimeout(() => this.emit('timeout'), idleMs).unref();
    return this;
  }

  get timeout(): number {
    return this.#idleMs;
  }

  /** Like `net.Socket.destroySoon`: ends, and is destroyed when everything was written. */
  destroySoon(): void {
    if (this.writable) this.end();
    if (this.writableFinished) this.destroy();
    else this.once('finish', () => this.destroy());
  }

  // Methods that `node:http` calls on a socket. They have no effect on a stream.
  setNoDelay(): this {
    return this;
  }
  setKeepAlive(): this {
    return this;
  }
  ref(): this {
    return this;
  }
  unref(): this {
    return this;
  }

  async #opened(opening: Promise<Stream> | undefined): Promise<void> {
    const stream = await opening;
    if (stream === undefined) return;
    if (this.destroyed) {
      stream.abort(new Error('the socket was destroyed'));
      return;
    }
    this.#take(stream);
    this.connecting = false;
  }

  async #closeWriting(): Promise<void> {
    await this.#stream?.close({ signal: AbortSignal.timeout(FINISH_MS) });
  }

  #reset(error: Error | null): void {
    const reason = error ?? new Error('the socket was destroyed');
    const stream = this.#stream;
    // A stream that is still being opened is aborted when it is open: see `#opened`.
    if (stream === undefined) return;
    // After an answer with `Connection: close` the other side closes its half when it has read ours. A reset at once would overtake bytes
    // that it hasn't read. A stream that stays half closed would count in the muxer's limit, so it is reset some time later.
    if (error === null && this.writableFinished) setTimeout(() => reset(stream, reason), LINGER_MS).unref();
    else reset(stream, reason);
  }

  #take(stream: Stream): void {
    this.#stream = stream;
    stream.addEventListener('message', ({ data }) => {
      this.#noteActivity();
      let hasRoom = true;
      for (const piece of data instanceof Uint8Array ? [data] : data)
        hasRoom = this.push(Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength));
      if (!hasRoom && stream.readStatus === 'readable') stream.pause();
    });
    stream.addEventListener('end', () => this.push(null));
    stream.addEventListener('close', ({ error }) => {
      if (error !== undefined) this.destroy(error);
    });
  }

  /** In pieces, since a single `send` of more than the stream's `maxWriteBufferLength` would reset it. */
  async #send(bytes: Uint8Array | Uint8ArrayList): Promise<void> {
    const stream = this.#stream;
    if (stream === undefined) throw new Error('the stream is not open');
    for (let from = 0; from < bytes.byteLength; from += MAX_UNSENT_BYTES) {
      stream.send(bytes.subarray(from, Math.min(bytes.byteLength, from + MAX_UNSENT_BYTES)));
      if (isFull(stream)) await roomToWrite(stream);
      this.#noteActivity();
    }
  }

  #noteActivity(): void {
    if (this.#idleMs > 0) this.#idleTimer?.refresh();
  }
}

function reset(stream: Stream, reason: Error): void {
  if (stream.status === 'open' || stream.status === 'closing') stream.abort(reason);
}
