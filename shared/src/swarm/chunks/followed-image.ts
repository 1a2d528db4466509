import type { ChunkId } from '../../content/index.ts';
import { ChunkBits, setBits } from './holdings.ts';
import { type Answer, violation } from './wire.ts';

/** Messages about one image that bring nothing new; an honest peer has hardly any. */
const MAX_EMPTY_MESSAGES = 1000;

/**
 * Told whenever a peer says what it holds.
 * @param added chunk numbers, new ones only
 */
export type HoldingsListener = (added: readonly number[], isFetching: boolean) => void;

/** What a peer says that it holds of one image. It may say so wrongly: asked for the chunk, it turns out. */
export class FollowedImage {
  readonly image: ChunkId;
  readonly #listener: HoldingsListener;
  #bits: ChunkBits;
  #wasFetching: boolean | undefined;
  #emptyMessages = 0;

  constructor(image: ChunkId, count: number, listener: HoldingsListener) {
    this.image = Uint8Array.from(image);
    this.#bits = new ChunkBits(count);
    this.#listener = listener;
  }

  /** The peer begins anew: all that it says is told again. */
  forget(): void {
    this.#bits = new ChunkBits(this.#bits.count);
    this.#wasFetching = undefined;
  }

  /** @throws SITECAST_PEER_PROTOCOL for chunks that the image doesn't have, and for messages without end */
  hear(answer: Extract<Answer, { type: 'bitmap' | 'positions' }>): void {
    const told = answer.type === 'bitmap' ? setBits(answer.first, answer.bits) : answer.positions;
    const added: number[] = [];
    for (const at of told) {
      if (at >= this.#bits.count) throw violation('a chunk that the image does not have');
      if (this.#bits.add(at)) added.push(at);
    }
    if (added.length === 0 && this.#wasFetching === answer.isFetching) {
      this.#emptyMessages += 1;
      if (this.#emptyMessages > MAX_EMPTY_MESSAGES) throw violation('messages that say nothing');
      return;
    }
    // An update ends, and another begins; but not for ever.
    if (added.length === 0) this.#emptyMessages += 1;
    this.#wasFetching = answer.isFetching;
    this.#listener(added, answer.isFetching);
  }
}
