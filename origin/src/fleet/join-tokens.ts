import { MEMBER_KINDS } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { type Enrolment, formatJoinToken, memberNameSchema, siteSchema } from '@sitecast/shared/fleet';
import { nameSchema } from '@sitecast/shared/release';
import { KeyPair } from '@sitecast/shared/signing';
import { z } from 'zod';
import type { Audit } from '../audit/audit.ts';
import { readStored } from './registry.ts';
import type { FleetStore, Write } from './store.ts';

export const MAX_JOIN_TOKENS = 10_000;

export const joinTokenSchema = z.object({
  /** Key id of its public half. */
  id: z.string(),
  /** In hex. */
  publicKey: z.string().regex(/^[0-9a-f]{64}$/),
  kind: z.enum(MEMBER_KINDS),
  /** What the one that it lets in is called. */
  name: memberNameSchema.exactOptional(),
  site: siteSchema.exactOptional(),
  product: nameSchema.exactOptional(),
  hardware: nameSchema.exactOptional(),
  uses: z.int().min(1),
  used: z.int().min(0),
  createdAt: z.iso.datetime(),
  createdBy: z.string(),
  expiresAt: z.iso.datetime(),
});
type StoredJoinToken = z.infer<typeof joinTokenSchema>;
export type JoinTokenDescription = Omit<StoredJoinToken, 'publicKey'>;

export interface WantedJoinToken {
  kind: StoredJoinToken['kind'];
  /** For one use alone: a name is one's. */
  name?: string | undefined;
  site?: string | undefined;
  product?: string | undefined;
  hardware?: string | undefined;
  uses: number;
  expiresAt: string;
  /** Where newcomers find the origin. */
  origin: string;
}

/** How a newcomer was let in. */
export interface AdmittedBy {
  before: StoredJoinToken;
  write: Write;
}

/** Lets newcomers in, as many as was said. The origin keeps the public half of each token. */
export class JoinTokens {
  readonly #audit: Audit;
  readonly #now: () => number;
  readonly #byId = new Map<string, StoredJoinToken>();

  private constructor(audit: Audit, now: () => number) {
    this.#audit = audit;
    this.#now = now;
  }

  static async open(store: FleetStore, audit: Audit, now: () => number): Promise<JoinTokens> {
    const tokens = new JoinTokens(audit, now);
    for await (const [key, value] of store.entries('joinToken'))
      tokens.#byId.set(key, readStored('joinToken', key, joinTokenSchema, value));
    return tokens;
  }

  list(): JoinTokenDescription[] {
    return [...this.#byId.values()]
      .sort((one, other) => one.createdAt.localeCompare(other.createdAt) || one.id.localeCompare(other.id))
      .map(({ publicKey: _publicKey, ...rest }) => rest);
  }

  /**
   * @param rootSha256 of the repository's first root: what newcomers trust
   * @returns the token's text besides, which is never to be had again
   * @throws SITECAST_EXPIRY_PAST, SITECAST_TOO_MANY_JOIN_TOKENS
   */
  async create(
    { origin, ...wanted }: WantedJoinToken,
    rootSha256: string,
    createdBy: string,
  ): Promise<JoinTokenDescription & { token: string }> {
    if (Date.parse(wanted.expiresAt) <= this.#now()) {
      throw new SitecastError('badInput', 'SITECAST_EXPIRY_PAST', 'the token would have expired already');
    }
    if (this.#byId.size >= MAX_JOIN_TOKENS) {
      throw new SitecastError(
        'conflict',
        'SITECAST_TOO_MANY_JOIN_TOKENS',
        `there are ${MAX_JOIN_TOKENS} join tokens already`,
        { hint: 'Delete those that are used up or expired.', data: { maxTokens: MAX_JOIN_TOKENS } },
      );
    }
    const pair = KeyPair.generate();
    const { kind, name, site, product, hardware, uses, expiresAt } = wanted;
    const description = {
      id: pair.keyId,
      kind,
      ...(name !== undefined && { name }),
      ...(site !== undefined && { site }),
      ...(product !== undefined && { product }),
      ...(hardware !== undefined && { hardware }),
      uses,
      used: 0,
      createdAt: new Date(this.#now()).toISOString(),
      createdBy,
      expiresAt,
    };
    const stored = { ...description, publicKey: pair.key.keyval.public ?? '' };
    this.#byId.set(stored.id, stored);
    try {
      const event = {
        by: createdBy,
        action: 'joinToken.create',
        subject: `joinToken:${stored.id}`,
        details: { kind, name, site, product, hardware, uses, expiresAt },
      };
      await this.#audit.record(event, [writeOf(stored)]);
    } catch (error) {
      this.#byId.delete(stored.id);
      throw error;
    }
    return { ...description, token: formatJoinToken(origin, rootSha256, pair) };
  }

  /** @throws SITECAST_JOIN_TOKEN_UNKNOWN */
  async remove(id: string, operator: string): Promise<void> {
    const token = this.#byId.get(id);
    if (!token) throw unknown('notFound');
    // Out of memory first: nobody may come in with it, and write it down again, while it's being deleted.
    this.#byId.delete(id);
    try {
      const { uses, used } = token;
      const event = {
        by: operator,
        action: 'joinToken.revoke',
        subject: `joinToken:${id}`,
        details: { uses, used },
      };
      await this.#audit.record(event, [{ table: 'joinToken', key: id, value: undefined }]);
    } catch (error) {
      this.#byId.set(id, token);
      throw error;
    }
  }

  /** Its public key. @throws SITECAST_JOIN_TOKEN_UNKNOWN (forbidden) */
  keyOf(id: string): Buffer {
    const token = this.#byId.get(id);
    if (!token) throw unknown('forbidden');
    return Buffer.from(token.publicKey, 'hex');
  }

  /**
   * Lets a newcomer in, and counts it.
   * @returns the token as it was, and as it is after this use: to be committed together with the member, else `giveBack`
   * @throws SITECAST_JOIN_TOKEN_UNKNOWN, SITECAST_JOIN_TOKEN_EXPIRED, SITECAST_JOIN_TOKEN_USED_UP,
   *   SITECAST_JOIN_TOKEN_MISMATCH (forbidden)
   */
  admit(
    id: string,
    { kind, product, hardware, site }: Pick<Enrolment, 'kind' | 'product' | 'hardware' | 'site'>,
  ): AdmittedBy {
    const token = this.#byId.get(id);
    if (!token) throw unknown('forbidden');
    if (Date.parse(token.expiresAt) <= this.#now()) {
      throw forbidden('SITECAST_JOIN_TOKEN_EXPIRED', `the join token expired at ${token.expiresAt}`);
    }
    if (token.used >= token.uses) throw forbidden('SITECAST_JOIN_TOKEN_USED_UP', 'the join token is used up');
    const asked = { kind, product, hardware, site: kind === 'gateway' ? site : undefined };
    for (const name of ['kind', 'product', 'hardware', 'site'] as const) {
      const bound = token[name];
      // A gateway that names no site gets the token's.
      if (bound === undefined || asked[name] === bound) continue;
      if (name === 'site' && asked.site === undefined) continue;
      throw forbidden(
        'SITECAST_JOIN_TOKEN_MISMATCH',
        `the join token is for the ${name} ${bound}, not for ${asked[name] ?? 'one without'}`,
      );
    }
    const next = { ...token, used: token.used + 1 };
    this.#byId.set(id, next);
    return { before: token, write: writeOf(next) };
  }

  /** A use that didn't become durable; those of one token in the reverse order. */
  giveBack({ before }: AdmittedBy): void {
    // One that was deleted in between stays so.
    if (this.#byId.has(before.id)) this.#byId.set(before.id, before);
  }
}

function writeOf(token: StoredJoinToken): Write {
  return { table: 'joinToken', key: token.id, value: token };
}

function unknown(kind: 'notFound' | 'forbidden'): SitecastError {
  return new SitecastError(kind, 'SITECAST_JOIN_TOKEN_UNKNOWN', 'the origin knows no such join token', {
    hint: 'It was deleted, or it is of another origin: make one with sitecast token create --join.',
  });
}

function forbidden(code: `SITECAST_JOIN_TOKEN_${string}`, message: string): SitecastError {
  return new SitecastError('forbidden', code, message, {
    hint: 'Make a new one with sitecast token create --join.',
  });
}
