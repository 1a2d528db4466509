import type { ServerResponse } from 'node:http';
import { SitecastError } from '../errors.ts';
import type { Requester } from './chunk-route.ts';

/** The bound on the time from a request's admission to the beginning of its answer. */
const ANSWER_WITHIN_MS = 15_000;

/**
 * A request with a session, until its answer is sent or given up. There are thousands in a minute, so signals and errors are created only
 * when someone asks for them.
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

  /** Aborted when the request was answered or given up, or has taken too long. */
  get ended(): AbortSignal {
    this.#ended ??= new AbortController();
    if (this.#isEnded) this.#ended.abort(busy());
    return this.#ended.signal;
  }

  /**
   * Waits in a queue, until `endWait` is called.
   * @param join enters the queue, and returns a function that leaves it
   * @param giveUp called if the request ends before its turn
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

  /** Called when its turn has come. */
  endWait(): void {
    this.#stopWaiting = undefined;
  }

  /** @param then called when the answer was sent or given up. Only the last given callback is called */
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
