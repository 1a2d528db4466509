import type { ChunkId } from '../../content/index.ts';
import { Bitfield, setBits } from './holdings.ts';
import { type Answer, violation } from './wire.ts';

/** How many messages about one image may bring nothing new. An honest peer sends hardly any. */
const MAX_EMPTY_MESSAGES = 1000;

/**
 * Called whenever a peer announces chunks.
 * @param added chunk numbers, new ones only
 */
export type HaveListener = (added: readonly number[], isFetching: boolean) => void;

/** The chunks of one image that a peer announces. Its claims may be wrong, which is noticed when a chunk is requested. */
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

  /** Called when the peer starts over: it will announce everything again. */
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
