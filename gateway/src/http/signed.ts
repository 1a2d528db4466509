import { SitecastError } from '@sitecast/shared/errors';
import { MAX_CLOCK_SKEW_MS, NonceMemory, verifyRequest } from '@sitecast/shared/http-signature';
import type { Context, MiddlewareHandler } from 'hono';
import { TokenBuckets } from '../storage/token-bucket.ts';
import { MemoryBudget } from './budget.ts';
import { FORWARDED_HEADER, type GatewayEnv } from './context.ts';

/** The longest body of a request. */
export const MAX_BODY_BYTES = 1024 * 1024;
/** All bodies that are in memory at one time. */
const MAX_BODY_MEMORY_BYTES = 32 * 1024 * 1024;
/** Signed requests from one address: what checking signatures may cost. Devices may share one behind a router. */
const PER_ADDRESS = { perS: 50, burst: 400 };

interface SignedDeps {
  now: () => number;
  /** Ids that nobody is to serve any more. */
  isRevoked: (id: string) => boolean;
}

/** Lets signed requests pass, with who signed them as `sender`; takes the JSON body, bounded. */
export function signedJson({ now, isRevoked }: SignedDeps): MiddlewareHandler<GatewayEnv> {
  const nonces = new NonceMemory(2 * MAX_CLOCK_SKEW_MS);
  const addresses = new TokenBuckets({ ...PER_ADDRESS, now });
  const memory = new MemoryBudget(MAX_BODY_MEMORY_BYTES);
  return async (c, next) => {
    if (c.req.header(FORWARDED_HEADER) !== undefined)
      throw new SitecastError(
        'unreachable',
        'SITECAST_FORWARDED_ALREADY',
        'a gateway passes on what comes from devices, not from other gateways',
      );
    if (!addresses.take(c.env?.incoming?.socket.remoteAddress ?? ''))
      throw new SitecastError('unreachable', 'SITECAST_RATE_LIMITED', 'too many requests from this address');
    demandJson(c);
    if (!memory.take(MAX_BODY_BYTES))
      throw new SitecastError(
        'unreachable',
        'SITECAST_BUSY',
        'the gateway is receiving as much as it can hold',
      );
    try {
      const body = await readBody(c);
      const { url, method, headers } = c.req.raw;
      const sender = await verifyRequest(
        { method, url, body, headers: Object.fromEntries(headers.entries()) },
        { nowMs: now(), nonces, isWelcome: () => true },
      );
      if (isRevoked(sender))
        throw new SitecastError('forbidden', 'SITECAST_REVOKED', 'this device was revoked');
      c.set('sender', sender);
      c.req.raw = new Request(url, { method, headers, body: new Uint8Array(body) });
      await next();
    } finally {
      memory.giveBack(MAX_BODY_BYTES);
    }
  };
}

function demandJson(c: Context<GatewayEnv>): void {
  const found = c.req.header('content-type')?.split(';')[0]?.trim().toLowerCase();
  if (found === 'application/json') return;
  throw new SitecastError(
    'badInput',
    'SITECAST_MEDIA_TYPE_UNSUPPORTED',
    'the body of this request must be application/json',
  );
}

async function readBody(c: Context<GatewayEnv>): Promise<Buffer> {
  if (Number(c.req.header('content-length') ?? 0) > MAX_BODY_BYTES) throw tooLarge();
  const parts: Uint8Array[] = [];
  let lengthBytes = 0;
  try {
    for await (const part of c.req.raw.body ?? []) {
      lengthBytes += part.length;
      if (lengthBytes > MAX_BODY_BYTES) throw tooLarge();
      parts.push(part);
    }
  } catch (cause) {
    if (cause instanceof SitecastError) throw cause;
    throw new SitecastError('badInput', 'SITECAST_BODY_INCOMPLETE', 'the connection ended within the body', {
      cause,
    });
  }
  return Buffer.concat(parts, lengthBytes);
}

function tooLarge(): SitecastError {
  return new SitecastError(
    'tooLarge',
    'SITECAST_BODY_TOO_LARGE',
    `the body of this request may have at most ${MAX_BODY_BYTES} bytes`,
    { data: { maxBytes: MAX_BODY_BYTES } },
  );
}
