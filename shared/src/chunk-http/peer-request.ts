import type { ServerResponse } from 'node:http';
import { SitecastError } from '../errors.ts';
import type { Requester } from './chunk-route.ts';

/** From a request's admission to the beginning of its answer: what takes longer is given up. */
const ANSWER_WITHIN_MS = 15_000;

/**
 * A request that has a session, until its answer was sent or given up. Thousands come in a minute, so it makes no signal and no error that
 * nobody asks for.
 */
export class PeerRequest implements Requester {
  readonly peer: string;
  readonly owner: string;
  #isEnded = false;
  #isClosed = false;
  #ended: AbortController | undefined;
  #stopWaiting: (() => void) | undefined;
  #onClose: (() => void) | undefined;

  /** @param peer its id @param owner its address */
  constructor(peer: string, owner: string, response: ServerResponse) {
    this.peer = peer;
    this.owner = owner;
    const late = setTimeout(() => this.#end(), ANSWER_WITHIN_MS).unref();
    response.on('close', () => {
      clearTimeout(late);
      this.#isClosed = true;
      this.#end();
      this.#onClose?.();
    });
  }

  /** It was answered, or given up; or it has taken too long. */
  get ended(): AbortSignal {
    this.#ended ??= new AbortController();
    if (this.#isEnded) this.#ended.abort(busy());
    return this.#ended.signal;
  }

  /**
   * Waits in a queue, until `endWait` is called.
   * @param join enters the queue, and gives what leaves it
   * @param giveUp called where the request ends before its turn
   */
  wait(join: () => () => void, giveUp: () => void): void {
    if (this.#isEnded) {
      giveUp();
      return;
    }
    let leave = (): void => {};
    this.#stopWaiting = () => {
      leave();
      giveUp();
    };
    leave = join();
  }

  /** Its turn has come. */
  endWait(): void {
    this.#stopWaiting = undefined;
  }

  /** @param then called once the answer was sent or given up: of several, the last one counts */
  onClose(then: () => void): void {
    if (this.#isClosed) then();
    else this.#onClose = then;
  }

  #end(): void {
    this.#isEnded = true;
    this.#stopWaiting?.();
    this.#stopWaiting = undefined;
    this.#ended?.abort(busy());
  }
}

export function busy(): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_BUSY', 'this device hands out nothing at present');
}
