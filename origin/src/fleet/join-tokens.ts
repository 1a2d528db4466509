import { SitecastError } from '@sitecast/shared/errors';
import { type Enrolment, formatJoinToken } from '@sitecast/shared/fleet';
import { KeyPair } from '@sitecast/shared/signing';
import { type FleetStore, MAX_JOIN_TOKENS, type StoredJoinToken } from './fleet-store.ts';

export type JoinTokenDescription = Omit<StoredJoinToken, 'publicKey'>;

export interface WantedJoinToken {
  kind: StoredJoinToken['kind'];
  /** For a token with one use only: a name belongs to one member. */
  name?: string | undefined;
  site?: string | undefined;
  product?: string | undefined;
  hardware?: string | undefined;
  uses: number;
  expiresAt: string;
  /** Where newcomers find the origin. */
  origin: string;
}

/** What lets newcomers in, as many as was said. The origin keeps the public half of each token. */
export class JoinTokens {
  readonly #store: FleetStore;
  readonly #now: () => number;

  constructor(store: FleetStore, now: () => number) {
    this.#store = store;
    this.#now = now;
  }

  list(): JoinTokenDescription[] {
    return [...this.#store.joinTokens()]
      .sort((one, other) => one.createdAt.localeCompare(other.createdAt) || one.id.localeCompare(other.id))
      .map(({ publicKey: _publicKey, ...rest }) => rest);
  }

  /**
   * @param rootSha256 of the repository's first root: what newcomers trust
   * @returns also the token's text, which can't be read later
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
    const added = await this.#store.addJoinToken(stored, {
      by: createdBy,
      action: 'joinToken.create',
      subject: `joinToken:${stored.id}`,
      details: { kind, name, site, product, hardware, uses, expiresAt },
    });
    if (added === 'tooMany') throw tooMany();
    return { ...description, token: formatJoinToken(origin, rootSha256, pair) };
  }

  /** @throws SITECAST_JOIN_TOKEN_UNKNOWN */
  async remove(id: string, operator: string): Promise<void> {
    const removed = await this.#store.removeJoinToken(id, ({ uses, used }) => ({
      by: operator,
      action: 'joinToken.revoke',
      subject: `joinToken:${id}`,
      details: { uses, used },
    }));
    if (removed === 'unknown') throw joinTokenUnknown('notFound');
  }

  /** Its public key. @throws SITECAST_JOIN_TOKEN_UNKNOWN (forbidden) */
  keyOf(id: string): Buffer {
    const token = this.#store.joinToken(id);
    if (!token) throw joinTokenUnknown('forbidden');
    return Buffer.from(token.publicKey, 'hex');
  }

  /**
   * Whether a token would let a newcomer in now. The use is counted by the store, together with the member.
   * @throws SITECAST_JOIN_TOKEN_UNKNOWN, SITECAST_JOIN_TOKEN_EXPIRED, SITECAST_JOIN_TOKEN_USED_UP,
   *   SITECAST_JOIN_TOKEN_MISMATCH (forbidden)
   */
  demandFor(
    id: string,
    { kind, product, hardware, site }: Pick<Enrolment, 'kind' | 'product' | 'hardware' | 'site'>,
  ): StoredJoinToken {
    const token = this.#store.joinToken(id);
    if (!token) throw joinTokenUnknown('forbidden');
    if (Date.parse(token.expiresAt) <= this.#now()) {
      throw forbidden('SITECAST_JOIN_TOKEN_EXPIRED', `the join token expired at ${token.expiresAt}`);
    }
    if (token.used >= token.uses) throw joinTokenUsedUp();
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
    return token;
  }
}

function tooMany(): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_TOO_MANY_JOIN_TOKENS',
    `there are ${MAX_JOIN_TOKENS} join tokens already`,
    { hint: 'Delete those that are used up or expired.', data: { maxTokens: MAX_JOIN_TOKENS } },
  );
}

export function joinTokenUnknown(kind: 'notFound' | 'forbidden'): SitecastError {
  return new SitecastError(kind, 'SITECAST_JOIN_TOKEN_UNKNOWN', 'the origin knows no such join token', {
    hint: 'It was deleted, or it is of another origin: make one with sitecast token create --join.',
  });
}

export function joinTokenUsedUp(): SitecastError {
  return forbidden('SITECAST_JOIN_TOKEN_USED_UP', 'the join token is used up');
}

function forbidden(code: `SITECAST_JOIN_TOKEN_${string}`, message: string): SitecastError {
  return new SitecastError('forbidden', code, message, {
    hint: 'Make a new one with sitecast token create --join.',
  });
}
