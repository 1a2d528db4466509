import { SitecastError } from '@sitecast/shared/errors';
import { MAX_CLOCK_SKEW_MS, NonceMemory, verifyRequest } from '@sitecast/shared/http-signature';
import type { VerifySignature } from '@sitecast/shared/identity';
import type { MiddlewareHandler } from 'hono';
import { revoked } from '../fleet/enrolment.ts';
import type { Registry } from '../fleet/registry.ts';
import { type BodyPace, holdBody } from './body.ts';
import type { OriginEnv } from './context.ts';
import type { MemoryBudget } from './memory.ts';

interface SignedRequestDeps {
  registry: Registry;
  verifyById: VerifySignature;
  bodies: { memory: MemoryBudget; pace: BodyPace };
  now: () => number;
}

/** Knows who sent a request of the site API (RFC 9421), and that it wasn't here before. */
export class SignedRequests {
  readonly #deps: SignedRequestDeps;
  readonly #nonces = new NonceMemory(2 * MAX_CLOCK_SKEW_MS);

  constructor(deps: SignedRequestDeps) {
    this.#deps = deps;
  }

  /** Takes the body, bounded, and demands the signature of an enrolled, unrevoked device or gateway. */
  ofMember(maxBytes: number): MiddlewareHandler<OriginEnv> {
    return this.#require(maxBytes, id => this.#deps.registry.member(id) !== undefined);
  }

  /** The same of anybody who has a key: for newcomers. A revoked one is refused all the same. */
  ofAnybody(maxBytes: number): MiddlewareHandler<OriginEnv> {
    return this.#require(maxBytes, () => true);
  }

  #require(maxBytes: number, isWelcome: (id: string) => boolean): MiddlewareHandler<OriginEnv> {
    const { registry, verifyById, bodies, now } = this.#deps;
    return async (c, next) => {
      if (c.req.header('signature') === undefined) throw unsigned();
      const { bytes, release } = await holdBody(c, bodies, maxBytes);
      try {
        const { url, method } = c.req.raw;
        const sender = await verifyRequest(
          { method, url, headers: c.req.header(), body: bytes },
          { nowMs: now(), nonces: this.#nonces, isWelcome, verifySignature: verifyById },
        );
        const member = registry.member(sender);
        if (member?.revokedAt !== undefined) throw revoked(member);
        if (member) registry.saw(sender, now());
        c.set('sender', sender);
        c.req.raw = new Request(url, { method, headers: c.req.raw.headers, body: bytes });
        await next();
      } finally {
        release();
      }
    };
  }
}

function unsigned(): SitecastError {
  return new SitecastError(
    'unauthenticated',
    'SITECAST_REQUEST_UNSIGNED',
    'the request carries no signature',
  );
}
