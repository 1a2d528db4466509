import type { Stream } from '@libp2p/interface';
import pLimit from 'p-limit';
import { Uint8ArrayList } from 'uint8arraylist';
import { isFull, roomToWrite } from '../stream-room.ts';
import { violation } from './wire.ts';

const LENGTH_BYTES = 4;
/** No honest reader takes longer for a message of that length. */
const DEFAULT_WRITE_DEADLINE_MS = 20_000;

interface MessageStreamOptions {
  /** A longer message ends the stream when its length is read. */
  readonly maxMessageBytes: number;
  readonly writeDeadlineMs?: number;
  /** Called with each message, and owns its bytes. If it throws, the stream ends. */
  readonly onMessage: (message: Buffer) => void;
  /** Called once, when nothing more will come; with the reason, if the stream failed. */
  readonly onEnd: (error: unknown) => void;
}

/**
 * Messages with their length before them, over a libp2p stream. Such streams have no backpressure: if a writer doesn't wait, memory fills
 * up or the stream is aborted. So `send` waits, and gives up on a reader that doesn't read.
 */
export class MessageStream {
  readonly #stream: Stream;
  readonly #options: MessageStreamOptions;
  readonly #turn = pLimit(1);
  readonly #head = Buffer.alloc(LENGTH_BYTES);
  /** The message that is arriving, when its length is known. */
  #message: Buffer | undefined;
  /** Bytes of the message, or of the head before it. */
  #filledBytes = 0;
  #isEnded = false;

  constructor(stream: Stream, options: MessageStreamOptions) {
    this.#stream = stream;
    this.#options = options;
    stream.addEventListener('message', ({ data }) => {
      for (const piece of data instanceof Uint8Array ? [data] : data) if (!this.#isEnded) this.#take(piece);
    });
    stream.addEventListener('remoteCloseWrite', () => {
      void this.close();
    });
    stream.addEventListener('close', event => this.#end(event.error));
    if (stream.status !== 'open') this.#end(undefined);
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  /**
   * Sends one message, after those before it.
   * @throws when the stream has ended, or its reader doesn't read: then the stream is aborted
   */
  send(...parts: readonly Uint8Array[]): Promise<void> {
    return this.#turn(async () => {
      await this.#roomToWrite();
      const lengthBytes = parts.reduce((sum, part) => sum + part.length, 0);
      const head = Buffer.allocUnsafe(LENGTH_BYTES);
      head.writeUInt32BE(lengthBytes);
      // As a list, so that a chunk isn't copied before it is encrypted.
      this.#stream.send(new Uint8ArrayList(head, ...parts));
    });
  }

  /** Ends the stream after everything written was sent. */
  async close(): Promise<void> {
    try {
      await this.#stream.close({ signal: AbortSignal.timeout(this.#writeDeadlineMs) });
    } catch (error) {
      this.abort(error);
    }
    this.#end(undefined);
  }

  abort(error: unknown): void {
    this.#stream.abort(error instanceof Error ? error : new Error(String(error)));
    this.#end(error);
  }

  get #writeDeadlineMs(): number {
    return this.#options.writeDeadlineMs ?? DEFAULT_WRITE_DEADLINE_MS;
  }

  async #roomToWrite(): Promise<void> {
    if (!this.#isEnded && !isFull(this.#stream)) return;
    const timer = setTimeout(() => {
      this.abort(new Error(`nothing was read for ${this.#writeDeadlineMs} ms`));
    }, this.#writeDeadlineMs);
    try {
      await roomToWrite(this.#stream);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Allocates a message when its length is known. A slow sender can't hold more memory than it announces. */
  #take(data: Uint8Array): void {
    for (let at = 0; at < data.length && !this.#isEnded; ) {
      const target = this.#message ?? this.#head;
      const taken = Math.min(target.length - this.#filledBytes, data.length - at);
      target.set(data.subarray(at, at + taken), this.#filledBytes);
      this.#filledBytes += taken;
      at += taken;
      if (this.#filledBytes < target.length) return;
      this.#filledBytes = 0;
      try {
        this.#finish(this.#message);
      } catch (error) {
        this.abort(error);
      }
    }
  }

  #finish(message: Buffer | undefined): void {
    if (message) {
      this.#message = undefined;
      this.#options.onMessage(message);
      return;
    }
    const lengthBytes = this.#head.readUInt32BE();
    if (lengthBytes === 0 || lengthBytes > this.#options.maxMessageBytes)
      throw violation(`a message of ${lengthBytes} bytes`);
    this.#message = Buffer.allocUnsafeSlow(lengthBytes);
  }

  #end(error: unknown): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#message = undefined;
    this.#options.onEnd(error);
  }
}
