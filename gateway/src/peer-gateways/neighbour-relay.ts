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

// Every machine with the fleet's key can send this, a stolen gateway among them. The worst it sends: requests without end, the longest bodies,
// requests that others have signed. So a request must be signed in the name of the neighbour itself, each neighbour has a rate, few requests
// are worked on at one time, and each is read whole, within a bound, before anything is sent on. Ids cost nothing: what all neighbours send is
// bounded, too, and it waits for its turn on a link that has a rate. The origin verifies the signature. What the neighbour is answered is what
// the origin answers: nothing is kept, and no answer is trusted here.

/** What gateways ask the origin: each of it they sign themselves, or anyone may read. */
const POSTS = /^\/site\/v1\/(?:reports|progress|presence|enrolments|gateways)$/;
const DOCUMENTS = /^\/site\/v1\/(?:assignments|acknowledgements)\/([A-Za-z0-9]{1,128})$/;
const SIGNER = /^[^;]*;(?:.*;)?keyid="([A-Za-z0-9]{1,128})"(?:;|$)/;
/** Headers of a signed request; none else is passed on. */
const PASSED = ['content-type', 'content-digest', RECEIVER_HEADER, 'signature', 'signature-input'];

/** The longest body. */
const MAX_BODY_BYTES = 1024 * 1024;
/** Requests of one neighbour, as many as it has streams, and of all, that are worked on at one time. */
const MAX_REQUESTS_PER_NEIGHBOUR = 8;
const MAX_REQUESTS = 64;
/** A gateway with news sends a few requests a second, and has hundreds of them to make up for when it was away. */
const REQUESTS = { perS: 2, burst: 200 };
/** The bytes of a neighbour that the origin or the settings have named, on average 256 MiB a day: reports of some ten thousand devices. */
const BYTES = { perS: 3000, burst: 16 * MAX_BODY_BYTES };
/** Those of another one. */
const STRANGER_BYTES = { perS: 3000, burst: MAX_BODY_BYTES };
/** Those of all neighbours together, on average 2.5 GiB a day. Strangers leave half of the burst to the others. */
const ALL_BYTES = { perS: 30_000, burst: 64 * MAX_BODY_BYTES };
/** How long a request waits for its turn: the neighbour gives up after 15 seconds. */
const TURN_WITHIN_MS = 10_000;

export interface NeighbourRelayDeps {
  /** The origin alone: a request goes over one neighbour at most. */
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
      // Node ends the request where its body is longer than it said, or takes too long.
      const body = method === 'POST' ? new Uint8Array(await c.req.arrayBuffer()) : undefined;
      // It came over the WAN, and goes out over it.
      const ends = AbortSignal.any([c.req.raw.signal, AbortSignal.timeout(TURN_WITHIN_MS)]);
      await wanLimits.forOthers(2 * (body?.length ?? 0), id, ends).catch(() => {
        throw busy();
      });
      // From now on nobody can hold it up, so its place isn't taken for others.
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

/** @returns what takes a neighbour's bytes: false where it may have no more for now */
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

/** Checks that a request is one that gateways make, of the neighbour itself, and not too long. */
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

// Each is "not me" for the gateway that asks: it tries another way.
function notRelayed(): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_NOT_RELAYED', 'this is not passed on to the origin');
}

function busy(): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_RELAY_BUSY', 'this gateway passes on no more for now');
}

function refused(why: string): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_RELAY_REFUSED', why);
}
