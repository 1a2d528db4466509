import type { ChunkId } from '../../content/index.ts';
import { Bitfield, setBits } from './holdings.ts';
import { type Answer, violation } from './wire.ts';

/** Messages about one image that bring nothing new. An honest peer sends hardly any. */
const MAX_EMPTY_MESSAGES = 1000;

/**
 * Is called whenever a peer says what it has.
 * @param added chunk numbers, new ones only
 */
export type HaveListener = (added: readonly number[], isFetching: boolean) => void;

/** What a peer says that it has of one image. It may be wrong: that shows when the chunk is asked for. */
export class SubscribedImage {
  readonly image: ChunkId;
  readonly #listener: HaveListener;
  #bits: Bitfield;
  #wasFetching: boolean | undefined;
  #emptyMessages = 0;

  constructor(image: ChunkId, count: number, listener: HaveListener) {
    this.image = Uint8Array.from(image);
    this.#bits = new Bitfield(count);
    this.#listener = listener;
  }

  /** The peer begins anew: the listener gets all that it says again. */
  forget(): void {
    this.#bits = new Bitfield(this.#bits.count);
    this.#wasFetching = undefined;
  }

  /** @throws SITECAST_PEER_PROTOCOL for chunks that the image doesn't have, and for messages without end */
  onHave(answer: Extract<Answer, { type: 'bitfield' | 'have' }>): void {
    const announced = answer.type === 'bitfield' ? setBits(answer.first, answer.bits) : answer.added;
    const added: number[] = [];
    for (const at of announced) {
      if (at >= this.#bits.count) throw violation('a chunk that the image does not have');
      if (this.#bits.add(at)) added.push(at);
    }
    if (added.length === 0 && this.#wasFetching === answer.isFetching) {
      this.#emptyMessages += 1;
      if (this.#emptyMessages > MAX_EMPTY_MESSAGES) throw violation('messages that say nothing');
      return;
    }
    // A peer may end an update and begin another, but not without end.
    if (added.length === 0) this.#emptyMessages += 1;
    this.#wasFetching = answer.isFetching;
    this.#listener(added, answer.isFetching);
  }
}
