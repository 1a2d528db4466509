import type { MessageStream, StreamMuxerFactory, StreamMuxer } from '@libp2p/interface';
import { yamux } from '@libp2p/yamux';
import { MAX_MUXER_FRAME_BYTES, YAMUX_LIMITS } from './options.ts';

// Any machine that reaches the port and completes the handshake can send this; a newly made key is enough for that. (On the fleet's network
// it also needs the fleet's key.) The worst message: a header that announces a frame of 4 GiB, and then bytes for it. yamux's decoder
// gathers a whole frame before it checks whether the stream exists and may send that much.

/** github.com/hashicorp/yamux/blob/master/spec.md: version, type, flags, stream id, length; big-endian. */
const HEADER_BYTES = 12;
const TYPE_AT = 1;
const FLAGS_AT = 2;
const STREAM_AT = 4;
const LENGTH_AT = 8;
const DATA_FRAME = 0;
const WINDOW_UPDATE = 1;
const RESET = 8;
/** Half of the smallest window: the sender can always have the other half on its way. */
const UPDATE_AFTER_BYTES = YAMUX_LIMITS.streamOptions.initialStreamWindowSize / 2;
const MAX_STREAMS = YAMUX_LIMITS.maxInboundStreams + YAMUX_LIMITS.maxOutboundStreams;

export interface Pings {
  readonly everyMs: number;
  readonly timeoutMs: number;
}

/**
 * Yamux with three changes: it ends a connection whose frames are longer than any window; it sends fewer window updates; and only the side
 * that dialled sends pings, and ends a connection without answers. (libp2p's own pings open a stream each, from both sides, which takes ten
 * times the bytes.)
 */
export function guardedYamux(pings: Pings): () => StreamMuxerFactory {
  const factory = yamux(YAMUX_LIMITS)();
  return () => ({
    protocol: factory.protocol,
    createStreamMuxer: (connection: MessageStream): StreamMuxer => {
      const frames = new FrameLengths();
      // Runs before the muxer's own listener, which never sees a frame that is too long.
      connection.addEventListener('message', event => {
        const { data } = event;
        const pieces = data instanceof Uint8Array ? [data] : [...data];
        if (pieces.every(piece => frames.areWithin(piece, MAX_MUXER_FRAME_BYTES))) return;
        event.stopImmediatePropagation();
        connection.abort(new RangeError(`a frame of more than ${MAX_MUXER_FRAME_BYTES} bytes`));
      });
      joinWindowUpdates(connection);
      const muxer = factory.createStreamMuxer(connection);
      if (connection.direction === 'outbound') keepPinged(connection, muxer, pings);
      return muxer;
    },
  });
}

function keepPinged(
  connection: MessageStream,
  muxer: { ping(options: { signal: AbortSignal }): Promise<unknown> },
  { everyMs, timeoutMs }: Pings,
): void {
  const timer = setInterval(() => {
    muxer.ping({ signal: AbortSignal.timeout(timeoutMs) }).catch((cause: unknown) => {
      if (connection.status === 'open') connection.abort(new Error('no answer to a ping', { cause }));
    });
  }, everyMs);
  timer.unref();
  connection.addEventListener('close', () => clearInterval(timer), { once: true });
}

/**
 * The library answers each data frame, however small, with a window update. Half of all frames are updates then, each encrypted and in a
 * packet of its own. Here, as in other implementations, a stream's updates are added up, and sent when they make half of the smallest
 * window. Updates that open, end or reset a stream are always sent.
 */
function joinWindowUpdates(connection: MessageStream): void {
  const send = connection.send.bind(connection);
  const updates = new WindowUpdates();
  connection.send = data => {
    // The muxer sends one frame per call; a frame without content as a plain array.
    if (!(data instanceof Uint8Array) || data.length !== HEADER_BYTES) return send(data);
    const frame = updates.joined(data);
    return frame ? send(frame) : true;
  };
}

/** The window updates of a connection's streams that are held back. */
export class WindowUpdates {
  /** By stream id: bytes that the other side isn't told of yet. */
  readonly #waiting = new Map<number, number>();

  /** For how many streams updates are held back. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** @param frame a frame without content @returns the frame to send in its place; undefined: none now */
  joined(frame: Uint8Array): Uint8Array | undefined {
    const header = Buffer.from(frame.buffer, frame.byteOffset, HEADER_BYTES);
    if (header.readUInt8(TYPE_AT) !== WINDOW_UPDATE) return frame;
    const stream = header.readUInt32BE(STREAM_AT);
    const flags = header.readUInt16BE(FLAGS_AT);
    if ((flags & RESET) !== 0) {
      this.#waiting.delete(stream);
      return frame;
    }
    const bytes = (this.#waiting.get(stream) ?? 0) + header.readUInt32BE(LENGTH_AT);
    this.#waiting.delete(stream);
    if (flags !== 0 || bytes >= UPDATE_AFTER_BYTES) return updateOf(stream, flags, bytes);
    this.#waiting.set(stream, bytes);
    // A stream that has ended leaves its entry here, so the one that is silent for the longest time is dropped.
    const [oldest] = this.#waiting;
    if (this.#waiting.size <= MAX_STREAMS || !oldest) return undefined;
    this.#waiting.delete(oldest[0]);
    return updateOf(oldest[0], 0, oldest[1]);
  }
}

function updateOf(stream: number, flags: number, bytes: number): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt8(WINDOW_UPDATE, TYPE_AT);
  header.writeUInt16BE(flags, FLAGS_AT);
  header.writeUInt32BE(stream, STREAM_AT);
  header.writeUInt32BE(bytes, LENGTH_AT);
  return header;
}

/** Follows the headers of yamux's frames through a connection's bytes, however they are cut. */
export class FrameLengths {
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerBytes = 0;
  /** Bytes of the current frame's content that are still to come. */
  #contentBytes = 0;

  /** @returns false when a header announces more than `maxBytes` */
  areWithin(piece: Uint8Array, maxBytes: number): boolean {
    let at = 0;
    while (at < piece.length) {
      if (this.#contentBytes > 0) {
        const skipped = Math.min(this.#contentBytes, piece.length - at);
        this.#contentBytes -= skipped;
        at += skipped;
        continue;
      }
      const taken = Math.min(HEADER_BYTES - this.#headerBytes, piece.length - at);
      this.#header.set(piece.subarray(at, at + taken), this.#headerBytes);
      this.#headerBytes += taken;
      at += taken;
      if (this.#headerBytes < HEADER_BYTES) break;
      this.#headerBytes = 0;
      // Only data frames have content; in the others the field means something else.
      if (this.#header.readUInt8(TYPE_AT) !== DATA_FRAME) continue;
      this.#contentBytes = this.#header.readUInt32BE(LENGTH_AT);
      if (this.#contentBytes > maxBytes) return false;
    }
    return true;
  }
}
