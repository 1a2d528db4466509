import { TOKEN_ROLES } from '@sitecast/shared/api';
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';
import { type Audit, ORIGIN } from '../audit/audit.ts';
import { readStored } from '../fleet/registry.ts';
import type { FleetStore, Write } from '../fleet/store.ts';

/** What a token allows, in rising order: each role may do all that the ones before it may. */
export type TokenRole = (typeof TOKEN_ROLES)[number];

export const MAX_TOKENS = 1000;
const TOKEN_SECRET_BYTES = 32;
/** Lets people and secret scanners recognise one. */
const TOKEN_PREFIX = 'sitecast_';
const TOKEN = /^sitecast_[A-Za-z0-9_-]{43}$/;

/** What is kept of a token: never the token itself. */
export const storedTokenSchema = z.object({
  id: z.string(),
  name: z.string(),
  role: z.enum(TOKEN_ROLES),
  /** SHA-256 of the whole token, hex. A hash without stretching is enough for 256 random bits. */
  hash: z.string().regex(/^[0-9a-f]{64}$/),
  /** RFC 3339, as is `expiresAt`. */
  createdAt: z.string(),
  expiresAt: z.string().exactOptional(),
});
type StoredToken = z.infer<typeof storedTokenSchema>;

export type TokenDescription = Omit<StoredToken, 'hash'>;

interface WantedToken {
  name: string;
  role: TokenRole;
  expiresAt?: string | undefined;
}

/** API tokens: who may do what. They are all in memory, so that a check touches no disk. */
export class Tokens {
  readonly #audit: Audit;
  readonly #now: () => number;
  readonly #byId = new Map<string, StoredToken>();

  private constructor(audit: Audit, now: () => number) {
    this.#audit = audit;
    this.#now = now;
  }

  /** @throws SITECAST_STATE_DAMAGED */
  static async open(store: FleetStore, audit: Audit, now: () => number): Promise<Tokens> {
    const tokens = new Tokens(audit, now);
    for await (const [key, value] of store.entries('token'))
      tokens.#byId.set(key, readStored('token', key, storedTokenSchema, value));
    return tokens;
  }

  get size(): number {
    return this.#byId.size;
  }

  /** Whether there's an admin's, be it expired: once there was one, there always is. */
  get hasAdmin(): boolean {
    return [...this.#byId.values()].some(({ role }) => role === 'admin');
  }

  /**
   * @param authorization the value of the Authorization header
   * @throws SITECAST_TOKEN_MISSING, SITECAST_TOKEN_INVALID, SITECAST_TOKEN_EXPIRED (unauthenticated);
   *   SITECAST_ROLE_TOO_LOW (forbidden)
   */
  authorise(authorization: string | undefined, needed: TokenRole): TokenDescription {
    if (authorization === undefined) {
      throw new SitecastError('unauthenticated', 'SITECAST_TOKEN_MISSING', 'this needs an API token', {
        hint: 'Send it as Authorization: Bearer TOKEN.',
      });
    }
    const token = this.#find(authorization);
    if (!token) {
      throw new SitecastError('unauthenticated', 'SITECAST_TOKEN_INVALID', 'the origin knows no such token');
    }
    if (this.#hasExpired(token)) {
      throw new SitecastError('unauthenticated', 'SITECAST_TOKEN_EXPIRED', 'the API token has expired', {
        data: { id: token.id, expiresAt: token.expiresAt },
      });
    }
    if (TOKEN_ROLES.indexOf(token.role) < TOKEN_ROLES.indexOf(needed)) {
      throw new SitecastError(
        'forbidden',
        'SITECAST_ROLE_TOO_LOW',
        `this needs the role ${needed}, the token has ${token.role}`,
        { data: { needed, role: token.role } },
      );
    }
    return describe(token);
  }

  /**
   * @param by whose token it is that makes this one
   * @returns the token itself besides, which is never to be had again
   * @throws SITECAST_TOO_MANY_TOKENS, SITECAST_TOKEN_NAME_TAKEN (conflict), SITECAST_EXPIRY_PAST (badInput)
   */
  async create(wanted: WantedToken, by: string = ORIGIN): Promise<TokenDescription & { token: string }> {
    this.#refuseTaken(wanted.name);
    const secret = newToken();
    return { ...(await this.#add(wanted, secret, by)), token: secret };
  }

  /** The first admin token, or the next one where none is left that works; undefined where there's no need. */
  async createAdminIfNone(keep: (token: string) => Promise<void>): Promise<TokenDescription | undefined> {
    if (this.#workingAdmins().length > 0) return undefined;
    const secret = newToken();
    // Kept for the operator first: a crash in between leaves a token that doesn't work, and the next start makes another.
    await keep(secret);
    return await this.#add({ name: 'first admin', role: 'admin' }, secret, ORIGIN);
  }

  list(): TokenDescription[] {
    return [...this.#byId.values()]
      .sort((one, other) => one.createdAt.localeCompare(other.createdAt) || one.id.localeCompare(other.id))
      .map(describe);
  }

  /** @throws SITECAST_TOKEN_UNKNOWN (notFound), SITECAST_LAST_ADMIN (conflict) */
  async revoke(id: string, by: string = ORIGIN): Promise<void> {
    const token = this.#byId.get(id);
    if (!token) {
      throw new SitecastError('notFound', 'SITECAST_TOKEN_UNKNOWN', `there is no token with the id ${id}`);
    }
    const others = this.#workingAdmins().filter(admin => admin.id !== id && admin.expiresAt === undefined);
    if (token.role === 'admin' && !this.#hasExpired(token) && others.length === 0) {
      throw new SitecastError(
        'conflict',
        'SITECAST_LAST_ADMIN',
        'this is the last admin token: without it nobody could make another',
        { hint: 'Create another admin token without an expiry date first.', data: { id } },
      );
    }
    // Out of memory first: two calls at once mustn't revoke the last two admins, each relying on the other.
    this.#byId.delete(id);
    try {
      const event = { by, action: 'token.revoke', subject: `token:${token.name}`, details: { id } };
      await this.#audit.record(event, [{ table: 'token', key: id, value: undefined }]);
    } catch (error) {
      this.#byId.set(id, token);
      throw error;
    }
  }

  async #add({ name, role, expiresAt }: WantedToken, secret: string, by: string): Promise<TokenDescription> {
    if (this.#byId.size >= MAX_TOKENS) {
      throw new SitecastError(
        'conflict',
        'SITECAST_TOO_MANY_TOKENS',
        `there are ${MAX_TOKENS} tokens already`,
        {
          hint: 'Revoke some that are no longer used.',
          data: { maxTokens: MAX_TOKENS },
        },
      );
    }
    const token: StoredToken = {
      id: randomBytes(8).toString('hex'),
      name,
      role,
      hash: hashOf(secret),
      createdAt: new Date(this.#now()).toISOString(),
      ...(expiresAt === undefined ? {} : { expiresAt }),
    };
    if (this.#hasExpired(token)) {
      throw new SitecastError('badInput', 'SITECAST_EXPIRY_PAST', 'the token would have expired already', {
        data: { expiresAt },
      });
    }
    // Its place is taken at once, so that many requests at a time can't pass the bound together.
    this.#byId.set(token.id, token);
    try {
      const details = { id: token.id, role, expiresAt };
      const event = { by, action: 'token.create', subject: `token:${name}`, details };
      await this.#audit.record(event, [writeOf(token)]);
    } catch (error) {
      this.#byId.delete(token.id);
      throw error;
    }
    return describe(token);
  }

  /** The audit log knows people by their tokens' names: one that holds is nobody else's, however it's spelt. */
  #refuseTaken(name: string): void {
    const key = nameKey(name);
    if (key === ORIGIN) {
      throw new SitecastError(
        'badInput',
        'SITECAST_TOKEN_NAME_TAKEN',
        'the audit log says "origin" of what no operator did: no token may be called so',
      );
    }
    const taken = [...this.#byId.values()].find(
      token => !this.#hasExpired(token) && nameKey(token.name) === key,
    );
    if (!taken) return;
    throw new SitecastError(
      'conflict',
      'SITECAST_TOKEN_NAME_TAKEN',
      `the token ${taken.id} is called ${taken.name} already`,
      {
        hint: 'Give another name, or revoke that one first: the audit log tells people apart by these names.',
        data: { id: taken.id },
      },
    );
  }

  #find(authorization: string): StoredToken | undefined {
    const secret = /^Bearer +(\S+)$/i.exec(authorization)?.[1];
    if (secret === undefined || !TOKEN.test(secret)) return undefined;
    const hash = Buffer.from(hashOf(secret), 'hex');
    // All of them are compared, each in constant time: how long it takes says nothing about which one is near.
    let found: StoredToken | undefined;
    for (const token of this.#byId.values()) {
      if (timingSafeEqual(Buffer.from(token.hash, 'hex'), hash)) found = token;
    }
    return found;
  }

  #workingAdmins(): StoredToken[] {
    return [...this.#byId.values()].filter(token => token.role === 'admin' && !this.#hasExpired(token));
  }

  #hasExpired({ expiresAt }: StoredToken): boolean {
    return expiresAt !== undefined && Date.parse(expiresAt) <= this.#now();
  }
}

function writeOf(token: StoredToken): Write {
  return { table: 'token', key: token.id, value: token };
}

/** Names that look the same are the same. */
function nameKey(name: string): string {
  return name
    .normalize('NFKC')
    .replace(/\p{Default_Ignorable_Code_Point}/gu, '')
    .replace(/[\s\u2800]+/gu, ' ')
    .trim()
    .toLowerCase();
}

function newToken(): string {
  return TOKEN_PREFIX + randomBytes(TOKEN_SECRET_BYTES).toString('base64url');
}

function hashOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}

function describe({ hash: _hash, ...description }: StoredToken): TokenDescription {
  return description;
}
