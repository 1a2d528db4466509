import { MAX_CLOCK_SKEW_MS, NonceMemory, verifyHead } from '@sitecast/shared/http-signature';
import type { VerifySignature } from '@sitecast/shared/identity';
import type { MiddlewareHandler } from 'hono';
import { revoked } from '../fleet/enrolment.ts';
import type { Registry } from '../fleet/registry.ts';
import { type BodyPace, holdBody } from './body.ts';
import type { OriginEnv } from './context.ts';
import { MemoryBudget } from './memory.ts';

/** Bodies that are in memory at one time, of all senders who aren't members. */
const MAX_STRANGERS_BODY_MEMORY_BYTES = 4 * 1024 * 1024;

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
  readonly #strangersMemory = new MemoryBudget(MAX_STRANGERS_BODY_MEMORY_BYTES);

  constructor(deps: SignedRequestDeps) {
    this.#deps = deps;
  }

  /** Demands the signature of an enrolled, unrevoked device or gateway, then takes the body, bounded. */
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
      const { url, method } = c.req.raw;
      const { id: sender, checkBody } = await verifyHead(
        { method, url, headers: c.req.header() },
        { nowMs: now(), nonces: this.#nonces, isWelcome, verifySignature: verifyById },
      );
      const member = registry.member(sender);
      if (member?.revokedAt !== undefined) throw revoked(member);
      // Anybody can make a key: those who aren't members can't take the memory of those who are.
      const memory = member ? bodies.memory : this.#strangersMemory;
      const { bytes, release } = await holdBody(c, { memory, pace: bodies.pace }, maxBytes);
      try {
        checkBody(bytes);
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
