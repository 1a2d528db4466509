import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { TOKEN_ROLES } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { ORIGIN } from '../audit/audit.ts';
import type { AdminTokenPlace, StoredToken, TokenChange, TokenRole, TokenStore } from './token-store.ts';

export const MAX_TOKENS = 1000;
const TOKEN_SECRET_BYTES = 32;
/** Lets people and secret scanners recognise a token. */
const TOKEN_PREFIX = 'sitecast_';
const TOKEN = /^sitecast_[A-Za-z0-9_-]{43}$/;

export type TokenDescription = Omit<StoredToken, 'hash'>;

interface WantedToken {
  name: string;
  role: TokenRole;
  expiresAt?: string | undefined;
}

/** API tokens: who may do what. */
export class Tokens {
  readonly #store: TokenStore;
  readonly #now: () => number;

  constructor(store: TokenStore, now: () => number) {
    this.#store = store;
    this.#now = now;
  }

  get size(): number {
    return this.#store.tokens().length;
  }

  /** Whether there's an admin's token, be it expired: once there was one, there always is. */
  get hasAdmin(): boolean {
    return this.#store.tokens().some(({ role }) => role === 'admin');
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
   * @param by name of the API token that makes this one
   * @returns also the token itself, which can't be read later
   * @throws SITECAST_TOO_MANY_TOKENS, SITECAST_TOKEN_NAME_TAKEN (conflict), SITECAST_EXPIRY_PAST (badInput)
   */
  async create(wanted: WantedToken, by: string = ORIGIN): Promise<TokenDescription & { token: string }> {
    const secret = newToken();
    const added = await this.#add(wanted, secret, by, tokens => this.#refuseTaken(tokens, wanted.name));
    return { ...added, token: secret };
  }

  /**
   * Makes the first admin token, or another one where none is left that works.
   * @returns where the operator finds it; undefined where one works already
   */
  async createAdminIfNone(place: AdminTokenPlace): Promise<string | undefined> {
    if (this.#workingAdmins(this.#store.tokens()).length > 0) return undefined;
    const secret = newToken();
    // Kept for the operator first: a crash in between leaves a token that doesn't work, and the next start makes another.
    const where = await place.keep(secret);
    await this.#add({ name: 'first admin', role: 'admin' }, secret, ORIGIN);
    return where;
  }

  list(): TokenDescription[] {
    return [...this.#store.tokens()]
      .sort((one, other) => one.createdAt.localeCompare(other.createdAt) || one.id.localeCompare(other.id))
      .map(describe);
  }

  /** @throws SITECAST_TOKEN_UNKNOWN (notFound), SITECAST_LAST_ADMIN (conflict) */
  async revoke(id: string, by: string = ORIGIN): Promise<void> {
    await this.#store.change(tokens => {
      const token = tokens.find(known => known.id === id);
      if (!token) {
        throw new SitecastError('notFound', 'SITECAST_TOKEN_UNKNOWN', `there is no token with the id ${id}`);
      }
      const admins = this.#workingAdmins(tokens);
      const others = admins.filter(admin => admin.id !== id && admin.expiresAt === undefined);
      if (token.role === 'admin' && !this.#hasExpired(token) && others.length === 0) {
        throw new SitecastError(
          'conflict',
          'SITECAST_LAST_ADMIN',
          'this is the last admin token: without it nobody could make another',
          { hint: 'Create another admin token without an expiry date first.', data: { id } },
        );
      }
      const event = { by, action: 'token.revoke' as const, subject: `token:${token.name}`, details: { id } };
      return { revoke: id, event };
    });
  }

  /** @param check throws where the token must not be added to these */
  async #add(
    { name, role, expiresAt }: WantedToken,
    secret: string,
    by: string,
    check: (tokens: readonly StoredToken[]) => void = () => {},
  ): Promise<TokenDescription> {
    const token: StoredToken = {
      id: randomBytes(8).toString('hex'),
      name,
      role,
      hash: hashOf(secret),
      createdAt: new Date(this.#now()).toISOString(),
      ...(expiresAt === undefined ? {} : { expiresAt }),
    };
    const details = { id: token.id, role, expiresAt };
    const event = { by, action: 'token.create' as const, subject: `token:${name}`, details };
    await this.#store.change(tokens => {
      check(tokens);
      return this.#addition(tokens, token, event);
    });
    return describe(token);
  }

  /** @throws SITECAST_TOO_MANY_TOKENS, SITECAST_EXPIRY_PAST */
  #addition(tokens: readonly StoredToken[], token: StoredToken, event: TokenChange['event']): TokenChange {
    if (tokens.length >= MAX_TOKENS) {
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
    if (this.#hasExpired(token)) {
      throw new SitecastError('badInput', 'SITECAST_EXPIRY_PAST', 'the token would have expired already', {
        data: { expiresAt: token.expiresAt },
      });
    }
    return { add: token, event };
  }

  /** The audit log knows people by their tokens' names: no two tokens that work have the same name, however it is spelt. */
  #refuseTaken(tokens: readonly StoredToken[], name: string): void {
    const key = nameKey(name);
    if (key === ORIGIN) {
      throw new SitecastError(
        'badInput',
        'SITECAST_TOKEN_NAME_TAKEN',
        'the audit log says "origin" of what no operator did: no token may be called so',
      );
    }
    const taken = tokens.find(token => !this.#hasExpired(token) && nameKey(token.name) === key);
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
    // All tokens are compared, each in constant time: the time says nothing about which one is near.
    let found: StoredToken | undefined;
    for (const token of this.#store.tokens()) {
      if (timingSafeEqual(Buffer.from(token.hash, 'hex'), hash)) found = token;
    }
    return found;
  }

  #workingAdmins(tokens: readonly StoredToken[]): StoredToken[] {
    return tokens.filter(token => token.role === 'admin' && !this.#hasExpired(token));
  }

  #hasExpired({ expiresAt }: StoredToken): boolean {
    return expiresAt !== undefined && Date.parse(expiresAt) <= this.#now();
  }
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
