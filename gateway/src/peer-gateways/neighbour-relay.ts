import type { HttpBindings } from '@hono/node-server';
import { FairPool, TokenBucket, TokenBuckets } from '@sitecast/shared/bounded';
import { SitecastError } from '@sitecast/shared/errors';
import { RECEIVER_HEADER } from '@sitecast/shared/http-signature';
import { isId } from '@sitecast/shared/identity';
import type { Log } from '@sitecast/shared/log';
import { Hono, type HonoRequest } from 'hono';
import { asSitecastError, problemResponse } from '../http/problem.ts';
import type { SiteUpstreams } from '../upstream/site-upstreams.ts';
import { pickHeaders } from '../upstream/upstream.ts';
import type { WanLimits } from '../wan/wan-limits.ts';

// Every machine with the fleet's key can send this, including a stolen gateway. The worst it sends: requests without end, the longest
// bodies, or requests that others have signed. So a request must be signed by the neighbour itself, each neighbour has a rate, only a few
// requests are handled at a time, and each is read whole, within a bound, before it is passed on. As ids cost nothing, there is a bound for
// all neighbours together, too, and on a link with a rate a request waits for its turn. The origin verifies the signature. The neighbour
// gets the origin's answer; nothing of it is stored or trusted here.

/** Requests of gateways to the origin: either they sign them themselves, or everyone may read the answer. */
const POSTS = /^\/site\/v1\/(?:reports|progress|presence|enrolments|gateways)$/;
const DOCUMENTS = /^\/site\/v1\/(?:assignments|acknowledgements)\/([A-Za-z0-9]{1,128})$/;
const SIGNER = /^[^;]*;(?:.*;)?keyid="([A-Za-z0-9]{1,128})"(?:;|$)/;
/** Headers of a signed request. No others are passed on. */
const PASSED = ['content-type', 'content-digest', RECEIVER_HEADER, 'signature', 'signature-input'];

/** The longest body. */
const MAX_BODY_BYTES = 1024 * 1024;
/** How many requests are handled at a time: of one neighbour (as many as it has streams), and of all. */
const MAX_REQUESTS_PER_NEIGHBOUR = 8;
const MAX_REQUESTS = 64;
/** A gateway sends a few requests a second, and hundreds of them after it was away. */
const REQUESTS = { perS: 2, burst: 200 };
/**
 * The rate of bytes for a neighbour that the origin or the settings have named: on average 256 MiB a day, which is the reports of some ten
 * thousand devices.
 */
const BYTES = { perS: 3000, burst: 16 * MAX_BODY_BYTES };
/** The rate of bytes for another neighbour. */
const STRANGER_BYTES = { perS: 3000, burst: MAX_BODY_BYTES };
/** The rate of bytes for all neighbours together: on average 2.5 GiB a day. Unnamed ones may use only half of the burst. */
const ALL_BYTES = { perS: 30_000, burst: 64 * MAX_BODY_BYTES };
/** How long a request waits for its turn: the neighbour gives up after 15 seconds. */
const TURN_WITHIN_MS = 10_000;

export interface NeighbourRelayDeps {
  /** Only the origin: a request passes through one neighbour at most. */
  origin: Pick<SiteUpstreams, 'forward'>;
  isRevoked: (id: string) => boolean;
  /** Whether the origin or the settings have named this gateway. */
  isKnown: (id: string) => boolean;
  wanLimits: Pick<WanLimits, 'forOthers' | 'passed'>;
  now: () => number;
  log: Log;
}

interface RelayEnv {
  Bindings: Partial<HttpBindings>;
}

/**
 * Passes requests of the site API on to the origin, for neighbours that can't reach it.
 * @param neighbourOf id of the neighbour at the other end of a request's connection
 */
export function neighbourRelay(
  { origin, isRevoked, isKnown, wanLimits, now, log }: NeighbourRelayDeps,
  neighbourOf: (bindings: RelayEnv['Bindings']) => string | undefined,
): Hono<RelayEnv> {
  const places = new FairPool({
    max: MAX_REQUESTS,
    maxPerOwner: MAX_REQUESTS_PER_NEIGHBOUR,
    sparesEquals: true,
  });
  const requests = new TokenBuckets({ ...REQUESTS, now });
  const bytes = bytesOf({ isKnown, now });
  const app = new Hono<RelayEnv>();
  app.onError(error => problemResponse(asSitecastError(error)));
  app.all('/site/v1/*', async c => {
    const { id, method, lengthBytes } = demandOwn(c.req, neighbourOf(c.env));
    if (isRevoked(id)) throw refused('this gateway was revoked');
    if (!requests.take(id) || !bytes(id, lengthBytes)) throw busy();
    const place = places.lease(id, 1, () => c.env.incoming?.destroy());
    if (place === undefined) throw busy();
    try {
      // Node ends the request if its body is longer than announced, or takes too long.
      const body = method === 'POST' ? new Uint8Array(await c.req.arrayBuffer()) : undefined;
      // It came over the WAN, and leaves over the WAN.
      const ends = AbortSignal.any([c.req.raw.signal, AbortSignal.timeout(TURN_WITHIN_MS)]);
      await wanLimits.forOthers(2 * (body?.length ?? 0), id, ends).catch(() => {
        throw busy();
      });
      // The body is read, so the neighbour can't delay it any more: its place isn't given to others.
      place.keep();
      const headers = pickHeaders(PASSED, name => c.req.header(name));
      const { path } = c.req;
      const answer = await origin.forward({ method, path, headers, body });
      log.debug({ neighbour: id, path, status: answer.status }, 'a neighbour asked the origin through here');
      bytes(id, answer.body.length);
      wanLimits.passed(answer.body.length);
      return new Response(Buffer.from(answer.body), { status: answer.status, headers: answer.headers });
    } finally {
      place.release();
    }
  });
  app.notFound(() => problemResponse(notRelayed()));
  return app;
}

/** @returns a function that takes a neighbour's bytes; it returns false where the neighbour may send no more for now */
function bytesOf({ isKnown, now }: Pick<NeighbourRelayDeps, 'isKnown' | 'now'>) {
  const known = new TokenBuckets({ ...BYTES, now });
  const strangers = new TokenBuckets({ ...STRANGER_BYTES, now });
  const all = new TokenBucket({ ...ALL_BYTES, now });
  return (id: string, lengthBytes: number): boolean => {
    const isNamed = isKnown(id);
    const reserve = isNamed ? 0 : ALL_BYTES.burst / 2;
    if (all.tokens < lengthBytes + reserve) return false;
    return (isNamed ? known : strangers).take(id, lengthBytes) && all.take(lengthBytes);
  };
}

/** Checks that a request is one that gateways make, that the neighbour itself signed it, and its length. */
function demandOwn(
  request: Pick<HonoRequest, 'method' | 'path' | 'header'>,
  id: string | undefined,
): { id: string; method: 'GET' | 'POST'; lengthBytes: number } {
  const { method, path } = request;
  const isDocument = method === 'GET' && isId(DOCUMENTS.exec(path)?.[1] ?? '');
  if (id !== undefined && isDocument) return { id, method: 'GET', lengthBytes: 0 };
  if (id === undefined || method !== 'POST' || !POSTS.test(path)) throw notRelayed();
  if (SIGNER.exec(request.header('signature-input') ?? '')?.[1] !== id)
    throw refused('a neighbour passes on what a gateway has signed itself');
  const lengthBytes = Number(request.header('content-length') ?? Number.NaN);
  if (!(lengthBytes <= MAX_BODY_BYTES))
    throw new SitecastError('tooLarge', 'SITECAST_BODY_TOO_LARGE', `at most ${MAX_BODY_BYTES} bytes`);
  return { id, method, lengthBytes };
}

// After each of these errors, the requesting gateway tries another way.
function notRelayed(): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_NOT_RELAYED', 'this is not passed on to the origin');
}

function busy(): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_RELAY_BUSY', 'this gateway passes on no more for now');
}

function refused(why: string): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_RELAY_REFUSED', why);
}
