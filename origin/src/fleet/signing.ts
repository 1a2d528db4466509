import { lruCache } from '@sitecast/shared/bounded';
import { SitecastError } from '@sitecast/shared/errors';
import { sealAcknowledgement, sealAssignment } from '@sitecast/shared/fleet';
import type { Envelope, EnvelopeSigner } from '@sitecast/shared/identity';
import { assignmentOf, type Member } from './member.ts';
import type { Registry } from './registry.ts';

const MAX_KEPT_ENVELOPES = 10_000;

/** The key that speaks for the origin: that of the rollouts role, as the published metadata names it now. */
export interface OriginSigner {
  /** @throws SITECAST_NOT_INITIALISED, SITECAST_ONLINE_KEY_MISSING */
  (): EnvelopeSigner;
}

/**
 * Assignments and acknowledgements, signed on request. Each is remembered by its content and its key: after a rotation of the key all
 * of them are signed anew.
 */
export class OriginStatements {
  readonly #registry: Registry;
  readonly #signer: OriginSigner;
  readonly #now: () => number;
  /** The oldest is forgotten first, however often it was asked for. */
  readonly #kept = lruCache<string, Promise<Envelope>>({ max: MAX_KEPT_ENVELOPES });

  constructor(registry: Registry, signer: OriginSigner, now: () => number) {
    this.#registry = registry;
    this.#signer = signer;
    this.#now = now;
  }

  assignment(member: Member): Promise<Envelope> {
    const signer = this.#signer();
    return this.#keep(`${signer.keyId} ${member.id} ${member.serial}`, () =>
      sealAssignment(assignmentOf(member), signer),
    );
  }

  /** Of the current chain. @throws SITECAST_ACKNOWLEDGEMENT_MISSING (notFound) */
  newestAcknowledgement(id: string): Promise<Envelope> {
    const chain = this.#registry.status(id)?.chains.at(-1);
    if (chain) return this.acknowledgement(id, chain.epoch, chain.seq);
    throw new SitecastError(
      'notFound',
      'SITECAST_ACKNOWLEDGEMENT_MISSING',
      `no report of ${JSON.stringify(id)} has come yet`,
    );
  }

  /** @param seq the highest contiguous one that is durable; 0 where there's none */
  acknowledgement(id: string, epoch: string, seq: number): Promise<Envelope> {
    const signer = this.#signer();
    const chain = this.#registry.status(id)?.chains.find(known => known.epoch === epoch && known.seq === seq);
    return this.#keep(`${signer.keyId} ${id} ${epoch} ${seq} ${chain?.head ?? ''}`, () =>
      sealAcknowledgement(
        {
          format: 'sitecast-acknowledgement-1',
          id,
          epoch,
          seq,
          ...(chain && { reportSha256: chain.head }),
          at: new Date(this.#now()).toISOString(),
        },
        signer,
      ),
    );
  }

  #keep(key: string, seal: () => Promise<Envelope>): Promise<Envelope> {
    const known = this.#kept.peek(key);
    if (known) return known;
    const sealed = seal();
    this.#kept.set(key, sealed);
    // A signature that failed isn't kept; its caller gets the error.
    sealed.catch(() => this.#kept.delete(key));
    return sealed;
  }
}
