import { FairPool, senderOf } from '@sitecast/shared/bounded';
import type { Context } from 'hono';
import type { Repository } from '../repository/repository.ts';
import type { After } from '../upkeep.ts';
import type { OriginEnv } from './context.ts';
import { timestampTag } from './public-files.ts';

/** The longest wait that a client may ask for. It is short enough that no proxy closes the connection as idle. */
export const MAX_WAIT_S = 55;
/** Requests that wait at one time. Beyond it the oldest request of the address with the most requests is answered. */
export const MAX_WAITERS = 3000;

/** Requests for the timestamp that wait for the next one (RFC 7240, `Prefer: wait`). */
export class TimestampWaiters {
  readonly #repository: Repository;
  readonly #after: After;
  readonly #waiting = new Set<() => void>();
  /** Requests of one address, which may be a proxy, don't displace each other: each would come again at once. */
  readonly #places = new FairPool({ max: MAX_WAITERS, sparesEquals: true });
  readonly #stopListening: () => void;
  #isClosed = false;

  constructor(repository: Repository, after: After) {
    this.#repository = repository;
    this.#after = after;
    this.#stopListening = repository.onCommit(() => this.#wakeAll());
  }

  get count(): number {
    return this.#waiting.size;
  }

  /**
   * Waits as long as a request for the timestamp asks for, if its client has the newest one already.
   * @returns the headers that confirm the wait
   */
  async wait(c: Context<OriginEnv>): Promise<Record<string, string>> {
    const seconds = waitOf(c.req.header('prefer'));
    const tag = c.req.header('if-none-match');
    if (seconds === undefined || tag === undefined || c.req.method !== 'GET') return {};
    const current = this.#repository.committed?.timestamp.bytes;
    const isNewest = current !== undefined && tag.includes(timestampTag(current));
    if (!isNewest || this.#isClosed) return {};
    if (!(await this.#sleep(seconds * 1000, c))) return {};
    return { 'preference-applied': `wait=${seconds}`, vary: 'prefer' };
  }

  /** Answers all waiting requests, and lets no request wait any more. */
  close(): void {
    this.#isClosed = true;
    this.#stopListening();
    this.#wakeAll();
  }

  /** @returns false if the request waited less than it asked for, because its place was needed or none was free */
  #sleep(ms: number, c: Context<OriginEnv>): Promise<boolean> {
    return new Promise(resolve => {
      const outgoing = c.env?.outgoing;
      let cancel = (): void => {};
      const end = (hasWaited: boolean): void => {
        cancel();
        outgoing?.off('close', wake);
        this.#waiting.delete(wake);
        place?.release();
        resolve(hasWaited);
      };
      const wake = (): void => end(true);
      const owner = senderOf(c.env?.incoming?.socket.remoteAddress) ?? 'loopback';
      const place = this.#places.lease(owner, 1, () => end(false));
      if (!place) {
        resolve(false);
        return;
      }
      cancel = this.#after(ms, wake);
      this.#waiting.add(wake);
      // The client has gone.
      outgoing?.once('close', wake);
    });
  }

  #wakeAll(): void {
    for (const wake of this.#waiting) wake();
  }
}

/** Seconds, at most MAX_WAIT_S; undefined where the header asks for no wait. */
function waitOf(prefer: string | undefined): number | undefined {
  const digits = /(?:^|[,;\s])wait\s*=\s*"?(\d{1,6})"?(?=$|[,;\s])/i.exec(prefer ?? '')?.[1];
  if (digits === undefined) return undefined;
  return Math.min(Number(digits), MAX_WAIT_S);
}
