import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { lruCache, type LruCache } from '../bounded/index.ts';
import { SitecastError } from '../errors.ts';
import { type MayServe, RenewedAdmission } from './admission.ts';
import {
  base64Url,
  CounterWindow,
  isProven,
  readProof,
  SESSION_ID_BYTES,
  SESSION_KEY_BYTES,
  type SessionSecret,
} from './proof.ts';

// A session is opened over a connection that has proved the peer's key, and only for a peer that may be served. So the worst sender here is
// a device of the site itself, which opens sessions without end. It can have two; a third one replaces its first.

/** The most sessions of all peers. A new one replaces the one that was unused for the longest time. */
const MAX_SESSIONS = 512;
/** A second session may be open while the first one ends. */
export const MAX_SESSIONS_PER_PEER = 2;
/** A session that is unused for this long ends. */
const IDLE_MS = 10 * 60_000;

interface Session {
  readonly peer: string;
  readonly key: Uint8Array;
  readonly counters: CounterWindow;
  readonly admission: RenewedAdmission;
}

interface ChunkSessionsOptions {
  /** This machine's id: requests meant for another machine are refused. */
  readonly self: string;
  readonly mayServe: MayServe;
  /** Milliseconds on a clock that never goes back. */
  readonly now?: () => number;
}

/** Which peers may fetch chunks from this machine over plain HTTP. */
export class ChunkSessions {
  readonly #options: ChunkSessionsOptions;
  readonly #sessions: LruCache<string, Session>;

  constructor(options: ChunkSessionsOptions) {
    this.#options = options;
    this.#sessions = lruCache({ max: MAX_SESSIONS, ttl: IDLE_MS, now: options.now });
  }

  get size(): number {
    return this.#sessions.size;
  }

  /**
   * @param peer its id, proved by its connection
   * @returns undefined for a peer that isn't served
   */
  async open(peer: string, credential: Uint8Array): Promise<SessionSecret | undefined> {
    const { mayServe, now } = this.#options;
    const admission = new RenewedAdmission(() => mayServe(peer, credential), now);
    if (!(await admission.isAdmitted())) return undefined;
    const own = [...this.#sessions.entries()].filter(([, session]) => session.peer === peer);
    // The most recently used is first.
    for (const [old] of own.slice(MAX_SESSIONS_PER_PEER - 1)) this.#sessions.delete(old);
    const secret = { id: randomBytes(SESSION_ID_BYTES), key: randomBytes(SESSION_KEY_BYTES) };
    const session = { peer, key: secret.key, counters: new CounterWindow(), admission };
    this.#sessions.set(base64Url(secret.id), session);
    return secret;
  }

  /**
   * The peer that sent a request.
   * @throws SITECAST_PEER_SESSION (unauthenticated)
   */
  admit(request: Pick<IncomingMessage, 'method' | 'url' | 'headers'>): string | Promise<string> {
    const proof = readProof(request.headers.authorization);
    const session = proof && this.#sessions.get(proof.session);
    if (!proof || !session) throw noSession();
    const { method = '', url: path = '' } = request;
    const { counter, mac } = proof;
    const { self } = this.#options;
    if (!isProven(session.key, mac, { method, path, counter, server: self })) throw noSession();
    // After the MAC was checked, so that others can't use up a counter.
    if (!session.counters.take(counter)) throw noSession();
    return session.admission.isFresh
      ? this.#used(proof.session, session)
      : this.#readmit(proof.session, session);
  }

  async #readmit(id: string, session: Session): Promise<string> {
    const isAdmitted = await session.admission.isAdmitted();
    if (isAdmitted && this.#sessions.has(id)) return this.#used(id, session);
    this.#sessions.delete(id);
    throw noSession();
  }

  /** Adds a session. Its idle time starts again. */
  #used(id: string, session: Session): string {
    this.#sessions.set(id, session);
    return session.peer;
  }

  /** Called when the peer isn't served any more. */
  drop(peer: string): void {
    for (const [id, session] of Array.from(this.#sessions.entries()))
      if (session.peer === peer) this.#sessions.delete(id);
  }
}

function noSession(): SitecastError {
  return new SitecastError(
    'unauthenticated',
    'SITECAST_PEER_SESSION',
    'this device serves peers of its site, by a session that they open over the exchange of chunks',
  );
}
