import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { httpbis, type SignatureParameters } from 'http-message-signatures';
import { SitecastError } from '../errors.ts';
import { type Identity, isId, type VerifySignature, verifyById } from '../identity/index.ts';
import { MAX_CLOCK_SKEW_MS } from './limits.ts';
import type { NonceMemory, NonceVerdict } from './nonce-memory.ts';
import { type Receiver, RECEIVER_HEADER } from './receiver.ts';

const NONCE = /^[0-9a-f]{32}$/;
const TAG = 'sitecast';
const PARAMS = ['created', 'nonce', 'keyid', 'alg', 'tag'];
const FIELDS = ['@method', '@path', '@query', 'content-digest'];

export interface SignableRequest {
  method: string;
  url: string | URL;
  body: Uint8Array;
}

/**
 * The headers that sign a request (RFC 9421 over method, path, query, the receiver's name and RFC 9530's content digest, with creation time and
 * nonce).
 * @param request.receiver the name of the server that it is meant for; without one, as up to 0.1, any server takes it
 * @param nowMs the sender's clock, or its estimate of the receiver's clock
 */
export async function signRequest(
  { method, url, body, receiver }: SignableRequest & { receiver?: string | undefined },
  identity: Identity,
  nowMs: number,
): Promise<Record<string, string>> {
  const key = {
    id: identity.id,
    alg: 'ed25519',
    sign: async (data: Buffer) => Buffer.from(await identity.sign(data)),
  };
  const paramValues = { created: new Date(nowMs), nonce: randomBytes(16).toString('hex'), tag: TAG };
  const named = receiver === undefined ? {} : { [RECEIVER_HEADER]: receiver };
  const headers = { 'content-digest': contentDigest(body), ...named };
  const signed: { headers: Record<string, string | string[]> } = await httpbis.signMessage(
    { key, fields: [...FIELDS, ...Object.keys(named)], params: PARAMS, paramValues },
    { method, url: new URL(url), headers },
  );
  return Object.fromEntries(
    Object.entries(signed.headers).map(([name, value]) => [name.toLowerCase(), String(value)]),
  );
}

export interface ReceivedRequest extends SignableRequest {
  headers: Record<string, string>;
}

export interface VerifyOptions {
  nowMs: number;
  nonces: NonceMemory;
  /** Who verifies. */
  receiver: Receiver;
  /** Checked before any signature of a stranger is verified. */
  isWelcome: (id: string) => boolean | Promise<boolean>;
  /** Whether the receiver knows the sender. A known sender has a nonce memory of its own. Without this, every welcome sender is known. */
  isKnown?: (id: string) => boolean | Promise<boolean>;
  /** `verifyById` by default; a server with many senders uses `fastVerifyById`. */
  verifySignature?: VerifySignature | undefined;
}

/**
 * Verifies a whole request.
 * @returns the sender's id
 * @throws SITECAST_REQUEST_UNSIGNED, SITECAST_REQUEST_SIGNATURE (wrong, altered, of a stranger),
 * SITECAST_REQUEST_MISDIRECTED (meant for another server), SITECAST_REQUEST_CLOCK (created too long ago or ahead), SITECAST_REQUEST_REPLAYED;
 * all of kind unauthenticated.
 * SITECAST_RATE_LIMITED (unreachable) for a sender whose nonces exceed its memory
 */
export async function verifyRequest(request: ReceivedRequest, options: VerifyOptions): Promise<string> {
  const { id, checkBody } = await verifyHead(request, options);
  checkBody(request.body);
  return id;
}

/** The sender of a request whose head was verified. The body may still be on its way. */
interface VerifiedHead {
  id: string;
  /** @throws SITECAST_REQUEST_SIGNATURE if this isn't the body that was signed */
  checkBody: (body: Uint8Array) => void;
}

/**
 * Verifies a request before any of its body is read. The signature covers the digest of the body.
 * @throws as `verifyRequest`
 */
export async function verifyHead(
  { method, url, headers }: Omit<ReceivedRequest, 'body'>,
  { nowMs, nonces, receiver, isWelcome, isKnown = () => true, verifySignature = verifyById }: VerifyOptions,
): Promise<VerifiedHead> {
  if (headers.signature === undefined || headers['signature-input'] === undefined) {
    throw refused('SITECAST_REQUEST_UNSIGNED', 'the request carries no signature');
  }
  const meant = headers[RECEIVER_HEADER];
  receiver.demandMeant(meant);
  const seen: Claim[] = [];
  const config = {
    // A name that the signature doesn't cover is somebody else's.
    requiredFields: meant === undefined ? FIELDS : [...FIELDS, RECEIVER_HEADER],
    requiredParams: PARAMS,
    // The check below uses our own clock instead.
    notAfter: Number.MAX_SAFE_INTEGER,
    keyLookup: async (params: SignatureParameters) => {
      const claim = readClaim(params);
      seen.push(claim);
      if (!(await isWelcome(claim.id))) throw new Error('a stranger');
      return {
        id: claim.id,
        algs: ['ed25519'],
        verify: async (data: Buffer, signature: Buffer) => verifySignature(claim.id, data, signature),
      };
    },
  };
  let isValid: boolean | null;
  try {
    isValid = await httpbis.verifyMessage(config, { method, url: new URL(url), headers });
  } catch (cause) {
    throw refused(
      'SITECAST_REQUEST_SIGNATURE',
      'the request is not signed by a device or gateway that is known here',
      cause,
    );
  }
  const [claim] = seen;
  if (isValid !== true || claim === undefined || seen.length !== 1) {
    throw refused('SITECAST_REQUEST_SIGNATURE', 'the signature does not fit the request');
  }
  if (Math.abs(nowMs - claim.createdMs) > MAX_CLOCK_SKEW_MS) {
    throw refused(
      'SITECAST_REQUEST_CLOCK',
      `the request was signed at ${new Date(claim.createdMs).toISOString()}, here it is ${new Date(nowMs).toISOString()}`,
    );
  }
  receiver.demandNewer(claim.id, meant, claim.createdMs / 1000);
  refuseReplay(nonces.add(claim.id, claim.nonce, { nowMs, isKnown: await isKnown(claim.id) }));
  return {
    id: claim.id,
    checkBody: body => {
      if (hasDigest(headers['content-digest'], body)) return;
      throw refused('SITECAST_REQUEST_SIGNATURE', "the content digest isn't that of the body");
    },
  };
}

function refuseReplay(verdict: NonceVerdict): void {
  if (verdict === 'seen') throw refused('SITECAST_REQUEST_REPLAYED', 'the request was here before');
  if (verdict === 'tooMany')
    throw new SitecastError('unreachable', 'SITECAST_RATE_LIMITED', 'too many requests of this sender');
}

interface Claim {
  id: string;
  nonce: string;
  createdMs: number;
}

function readClaim({ keyid, nonce, created, alg, tag }: SignatureParameters): Claim {
  const isComplete = typeof keyid === 'string' && typeof nonce === 'string' && created instanceof Date;
  if (!isComplete || alg !== 'ed25519' || tag !== TAG || !NONCE.test(nonce) || !isId(keyid))
    throw new Error('malformed parameters');
  const createdMs = created.getTime();
  if (!Number.isSafeInteger(createdMs)) throw new Error('malformed creation time');
  return { id: keyid, nonce, createdMs };
}

function contentDigest(body: Uint8Array): string {
  return `sha-256=:${createHash('sha256').update(body).digest('base64')}:`;
}

function hasDigest(header: string | undefined, body: Uint8Array): boolean {
  const expected = Buffer.from(contentDigest(body));
  const found = Buffer.from(header ?? '');
  return found.length === expected.length && timingSafeEqual(found, expected);
}

function refused(code: `SITECAST_REQUEST_${string}`, message: string, cause?: unknown): SitecastError {
  return new SitecastError('unauthenticated', code, message, { cause });
}
