import { FairPool } from '@sitecast/shared/bounded';
import {
  MAX_CLOCK_SKEW_MS,
  NonceMemory,
  ORIGIN_RECEIVER,
  Receiver,
  verifyHead,
} from '@sitecast/shared/http-signature';
import type { VerifySignature } from '@sitecast/shared/identity';
import type { MiddlewareHandler } from 'hono';
import { revoked } from '../fleet/enrolment-errors.ts';
import type { Registry } from '../fleet/registry.ts';
import { type BodyPace, holdBody } from './body.ts';
import type { OriginEnv } from './context.ts';
import { MAX_MEMBERS_BODY_MEMORY_BYTES, MAX_STRANGERS_BODY_MEMORY_BYTES, SenderMemory } from './memory.ts';

interface SignedRequestDeps {
  registry: Registry;
  verifyById: VerifySignature;
  bodies: { pace: BodyPace };
  now: () => number;
}

/** The least that a body counts in the shared memory. */
const MIN_BODY_BYTES = 4096;
const bodyPool = (max: number): FairPool => new FairPool({ max, minUnits: MIN_BODY_BYTES });

/** Verifies who sent a request of the site API (RFC 9421), and that it isn't a replay. */
export class SignedRequests {
  readonly #deps: SignedRequestDeps;
  readonly #receiver = new Receiver(ORIGIN_RECEIVER);
  readonly #nonces = new NonceMemory(2 * MAX_CLOCK_SKEW_MS);
  readonly #membersMemory = bodyPool(MAX_MEMBERS_BODY_MEMORY_BYTES);
  readonly #strangersMemory = bodyPool(MAX_STRANGERS_BODY_MEMORY_BYTES);

  constructor(deps: SignedRequestDeps) {
    this.#deps = deps;
  }

  /** Demands the signature of an enrolled, unrevoked device or gateway, then reads the body, bounded. */
  ofMember(maxBytes: number): MiddlewareHandler<OriginEnv> {
    return this.#require(maxBytes, id => this.#deps.registry.member(id) !== undefined);
  }

  /** Demands the signature of any key, for new devices and gateways. Revoked ones are refused. It reads the body, bounded. */
  ofAnybody(maxBytes: number): MiddlewareHandler<OriginEnv> {
    return this.#require(maxBytes, () => true);
  }

  #require(maxBytes: number, isWelcome: (id: string) => boolean): MiddlewareHandler<OriginEnv> {
    const { registry, verifyById, bodies, now } = this.#deps;
    return async (c, next) => {
      const { url, method } = c.req.raw;
      const { id: sender, checkBody } = await verifyHead(
        { method, url, headers: c.req.header() },
        {
          nowMs: now(),
          nonces: this.#nonces,
          receiver: this.#receiver,
          isWelcome,
          isKnown: id => registry.activeMember(id) !== undefined,
          verifySignature: verifyById,
        },
      );
      const member = registry.member(sender);
      if (member?.revokedAt !== undefined) throw revoked(member);
      // Anyone can make a key. So strangers share a memory of their own, and can't use up the members' memory.
      const shared = member ? this.#membersMemory : this.#strangersMemory;
      const memory = new SenderMemory(shared, sender, () => c.env?.incoming?.destroy());
      const { bytes, release } = await holdBody(c, { memory, pace: bodies.pace }, maxBytes);
      memory.keep();
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
