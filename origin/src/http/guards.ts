import { SitecastError } from '@sitecast/shared/errors';
import type { MiddlewareHandler } from 'hono';
import { demandRoom, type Room } from '../room.ts';
import type { TokenRole } from '../tokens/token-store.ts';
import type { Tokens } from '../tokens/tokens.ts';
import { type BodyPace, holdBody } from './body.ts';
import type { OriginEnv } from './context.ts';
import type { MemoryBudget } from './memory.ts';

/** Lets requests pass whose token has the role. Runs before anything reads the body. */
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

/** Demands that there's more room than the reserve. */
export function requireRoom(room: Room): MiddlewareHandler<OriginEnv> {
  return async (_c, next) => {
    await demandRoom(room);
    await next();
  };
}

/** Takes a JSON body, bounded, before the schema validator asks for it. */
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
