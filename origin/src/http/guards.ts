import { SitecastError } from '@sitecast/shared/errors';
import type { MiddlewareHandler } from 'hono';
import { demandRoom, type Room } from '../room.ts';
import type { TokenRole } from '../tokens/token-store.ts';
import type { Tokens } from '../tokens/tokens.ts';
import { type BodyPace, holdBody } from './body.ts';
import type { OriginEnv } from './context.ts';
import type { MemoryBudget } from './memory.ts';
import { JSON_TYPE } from './schemas.ts';

/** Admits requests with a token of the role. Runs before the body is read. */
export function requireRole(tokens: Tokens, roleOf: TokenRole): MiddlewareHandler<OriginEnv> {
  return async (c, next) => {
    c.set('token', tokens.authorise(c.req.header('authorization'), roleOf));
    await next();
  };
}

/** Demands a body of this media type. */
export function requireMediaType(mediaType: string): MiddlewareHandler<OriginEnv> {
  return async (c, next) => {
    const found = c.req.header('content-type')?.split(';')[0]?.trim().toLowerCase();
    if (found !== mediaType) {
      throw new SitecastError(
        'badInput',
        'SITECAST_MEDIA_TYPE_UNSUPPORTED',
        `the body of this request must be ${mediaType}`,
        { data: { expected: mediaType } },
      );
    }
    await next();
  };
}

/** Demands more free disk space than the reserve. */
export function requireRoom(room: Room): MiddlewareHandler<OriginEnv> {
  return async (_c, next) => {
    await demandRoom(room);
    await next();
  };
}

/** Reads a JSON body, bounded, before the schema validator reads it. */
export function boundedJson(
  limits: { memory: MemoryBudget; pace: BodyPace },
  maxBytes: number,
): MiddlewareHandler<OriginEnv> {
  return async (c, next) => {
    const { bytes, release } = await holdBody(c, limits, maxBytes);
    try {
      const { url, method, headers } = c.req.raw;
      c.req.raw = new Request(url, { method, headers, body: bytes });
      await next();
    } finally {
      release();
    }
  };
}

/** Admits requests with a token of the role, and reads their JSON body, bounded. */
export function takeJson(
  { tokens, bodies }: { tokens: Tokens; bodies: { memory: MemoryBudget; pace: BodyPace } },
  role: TokenRole,
  maxBytes: number,
): MiddlewareHandler<OriginEnv>[] {
  return [requireRole(tokens, role), requireMediaType(JSON_TYPE), boundedJson(bodies, maxBytes)];
}
