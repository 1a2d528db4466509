import { createHmac, timingSafeEqual } from 'node:crypto';

export const SESSION_ID_BYTES = 16;
export const SESSION_KEY_BYTES = 32;
/** The most digits of a request's counter: a double holds such numbers exactly. */
const MAX_COUNTER_DIGITS = 15;
/** By how many places requests over parallel connections may overtake each other. */
const WINDOW = 1024;

const SCHEME = 'Sitecast-Session';
const AUTHORIZATION = new RegExp(
  `^${SCHEME} id="([\\w-]{22})", counter="(\\d{1,${MAX_COUNTER_DIGITS}})", mac="([\\w-]{43})"$`,
);

/** The secret that a requester shares with one server. It allows requests to that server only. */
export interface SessionSecret {
  readonly id: Uint8Array;
  readonly key: Uint8Array;
}

/** What a request claims about its session, not yet verified. */
export interface Proof {
  /** base64url. */
  readonly session: string;
  readonly counter: number;
  readonly mac: Uint8Array;
}

interface Proven {
  readonly method: string;
  /** As in the request line. */
  readonly path: string;
  readonly counter: number;
  /** The id of the machine that receives the request. */
  readonly server: string;
}

/** HMAC-SHA256 over method, path, counter and server: none of them holds a line feed. */
function macOf(key: Uint8Array, { method, path, counter, server }: Proven): Buffer {
  return createHmac('sha256', key).update(`${method}\n${path}\n${counter}\n${server}`).digest();
}

/** The value of `Authorization` for a request. @param counter never used before with this key */
export function prove({ id, key }: SessionSecret, proven: Proven): string {
  const mac = macOf(key, proven).toString('base64url');
  return `${SCHEME} id="${base64Url(id)}", counter="${proven.counter}", mac="${mac}"`;
}

/** @returns undefined for any other value */
export function readProof(authorization: string | undefined): Proof | undefined {
  const [, session, counter, mac] = AUTHORIZATION.exec(authorization ?? '') ?? [];
  if (session === undefined || counter === undefined || mac === undefined) return undefined;
  return { session, counter: Number(counter), mac: Buffer.from(mac, 'base64url') };
}

export function isProven(key: Uint8Array, mac: Uint8Array, proven: Proven): boolean {
  return timingSafeEqual(macOf(key, proven), mac);
}

export function base64Url(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64url');
}

/** Accepts each counter once, also out of order (RFC 4303, section 3.4.3). */
export class CounterWindow {
  #highest = -1;
  readonly #seen = new Set<number>();

  /** @returns false for a counter that came before, or that is too old */
  take(counter: number): boolean {
    if (counter <= this.#highest - WINDOW || this.#seen.has(counter)) return false;
    this.#seen.add(counter);
    this.#highest = Math.max(this.#highest, counter);
    if (this.#seen.size > 2 * WINDOW)
      for (const old of this.#seen) if (old <= this.#highest - WINDOW) this.#seen.delete(old);
    return true;
  }
}
