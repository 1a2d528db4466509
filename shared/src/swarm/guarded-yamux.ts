import type { MessageStream, StreamMuxerFactory, StreamMuxer } from '@libp2p/interface';
import { yamux } from '@libp2p/yamux';
import { StreamState, YamuxStream } from '@libp2p/yamux/stream';
import { MAX_MUXER_FRAME_BYTES, YAMUX_LIMITS } from './options.ts';

// Any machine that reaches the port and completes the handshake can send this; a key made just now is enough for that. (On the
// fleet's network it also needs the fleet's key.) The worst message: a header that announces a frame of 4 GiB, then bytes for it.
// yamux's decoder gathers a whole frame before it checks whether the stream exists and may have that much.

/** github.com/hashicorp/yamux/blob/master/spec.md: version, type, flags, stream id, length; big-endian. */
const HEADER_BYTES = 12;
const TYPE_AT = 1;
const LENGTH_AT = 8;
const DATA_FRAME = 0;

/**
 * The library answers each data frame, however small, with a window update. Half of all frames are updates then, each encrypted and
 * in a packet of its own. Here, as in other implementations, an update goes out when the sender has used half of its window. Before
 * a stream is established, updates carry its SYN and ACK, and always go out.
 */
// oxlint-disable-next-line typescript/unbound-method -- it's called with its stream
const updateWindow = YamuxStream.prototype.sendWindowUpdate;
YamuxStream.prototype.sendWindowUpdate = function whenHalfUsed(this: YamuxStream): void {
  // Bytes: what the sender may send at most, and what of it is left.
  const window = Number(Reflect.get(this, 'recvWindow'));
  const leftBytes = Number(Reflect.get(this, 'recvWindowCapacity'));
  if (this.state === StreamState.Established && leftBytes > window / 2) return;
  updateWindow.call(this);
};

/** Yamux that ends a connection whose frames are longer than any window that it gives. */
export function guardedYamux(): () => StreamMuxerFactory {
  const factory = yamux(YAMUX_LIMITS)();
  return () => ({
    protocol: factory.protocol,
    createStreamMuxer: (connection: MessageStream): StreamMuxer => {
      const frames = new FrameLengths();
      // Before the muxer's own listener: a frame that is too long never gets there.
      connection.addEventListener('message', event => {
        const { data } = event;
        const pieces = data instanceof Uint8Array ? [data] : [...data];
        if (pieces.every(piece => frames.areWithin(piece, MAX_MUXER_FRAME_BYTES))) return;
        event.stopImmediatePropagation();
        connection.abort(new RangeError(`a frame of more than ${MAX_MUXER_FRAME_BYTES} bytes`));
      });
      return factory.createStreamMuxer(connection);
    },
  });
}

/** Follows the headers of yamux's frames through a connection's bytes, however they are cut. */
export class FrameLengths {
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerBytes = 0;
  /** Bytes of the present frame's content that are still to come. */
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
