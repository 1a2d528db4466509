import { randomBytes } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import { type Assignment, openAssignment, sealEnrolment } from '@sitecast/shared/fleet';
import type { Identity } from '@sitecast/shared/identity';
import type { KeyPair } from '@sitecast/shared/signing';
import type { RoleSigners } from '@sitecast/shared/trust';
import type { StateFile } from '../state/state-file.ts';
import { fieldOf, textOf } from './answers.ts';
import { type Gateways, noGateway } from './gateways.ts';

export interface MembershipOptions {
  gateways: Gateways;
  identity: Identity;
  stateFile: StateFile;
  product: string;
  hardware: string;
  /** What it wants to be called. */
  wish: string | undefined;
  /** The join token's key, where there's a token. */
  token: KeyPair | undefined;
}

/** What the origin says this device is; asks to be known where it says nothing yet. */
export class Membership {
  readonly #options: MembershipOptions;
  /** The last one that was read: it's asked for with every peer that is served. */
  #read: { envelope: unknown; signers: RoleSigners; assignment: Assignment | undefined } | undefined;

  constructor(options: MembershipOptions) {
    this.#options = options;
  }

  /** The newest assignment that is kept and verifies; undefined before enrolment. */
  stored(signers: RoleSigners): Assignment | undefined {
    const { stateFile, identity } = this.#options;
    const envelope = stateFile.current.assignment;
    if (this.#read?.envelope !== envelope || this.#read?.signers !== signers)
      this.#read = { envelope, signers, assignment: readAssignment(envelope, identity.id, signers) };
    return this.#read.assignment;
  }

  /**
   * Fetches the assignment, or enrols. Keeps the one with the highest serial, whichever gateway says what. "Unknown" and "pending",
   * and what the origin hasn't signed, are no last words: then each other gateway is asked once.
   * @returns `pending` while an operator has to accept this device
   * @throws SITECAST_ENROLMENT_REFUSED with what the site says; SITECAST_GATEWAY_UNREACHABLE
   */
  async update(signers: RoleSigners, signal?: AbortSignal): Promise<Assignment | 'pending'> {
    const { gateways, identity } = this.#options;
    const envelope = await gateways.find(async gateway => {
      const { status, body } = await gateways.get(gateway, `/site/v1/assignments/${identity.id}`, signal);
      return status === 200 ? this.#verified(assignmentIn(gateway.url, body), signers) : undefined;
    }, signal);
    return (await this.#keepNewest(envelope, signers)) ?? this.#enrol(signers, signal);
  }

  async #enrol(signers: RoleSigners, signal: AbortSignal | undefined): Promise<Assignment | 'pending'> {
    const { gateways, identity, product, hardware, wish, token, stateFile } = this.#options;
    const nonce = stateFile.current.enrolmentNonce ?? randomBytes(16).toString('hex');
    // Kept first: asking again, after whatever came between, is the same request and uses the token once.
    if (stateFile.current.enrolmentNonce === undefined) await stateFile.change({ enrolmentNonce: nonce });
    const envelope = await sealEnrolment(
      {
        format: 'sitecast-enrolment-1',
        id: identity.id,
        nonce,
        kind: 'device',
        product,
        hardware,
        // Whoever passes it on, or lets it in, may be of a release that knows no names: it reads past it.
        ...(wish === undefined ? {} : { name: wish }),
        ...(token ? { token: token.keyId } : {}),
      },
      identity,
      token,
    );
    const assignment = await gateways.find(async gateway => {
      const { status, body } = await gateways.post(gateway, '/site/v1/enrolments', { envelope }, signal);
      if (status === 202 && fieldOf(body, 'state') === 'pending') return undefined;
      if (status === 200) return this.#verified(assignmentIn(gateway.url, body), signers);
      throw refused(gateway.url, status, body);
    }, signal);
    return (await this.#keepNewest(assignment, signers)) ?? 'pending';
  }

  /** @returns the envelope; undefined where it isn't the origin's word about this device */
  #verified(envelope: unknown, signers: RoleSigners): unknown {
    return readAssignment(envelope, this.#options.identity.id, signers) && envelope;
  }

  async #keepNewest(envelope: unknown, signers: RoleSigners): Promise<Assignment | undefined> {
    const { stateFile, identity } = this.#options;
    const stored = this.stored(signers);
    const found = readAssignment(envelope, identity.id, signers);
    if (!found || (stored && stored.serial >= found.serial)) return stored;
    await stateFile.change({ assignment: envelope });
    return found;
  }
}

function readAssignment(envelope: unknown, id: string, signers: RoleSigners): Assignment | undefined {
  if (envelope === undefined) return undefined;
  try {
    const assignment = openAssignment(envelope, signers);
    return assignment.id === id && assignment.kind === 'device' ? assignment : undefined;
  } catch (error) {
    // Of another's making, or signed with a key that is no longer trusted: as good as none.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

function assignmentIn(url: string, body: unknown): unknown {
  const assignment = fieldOf(body, 'assignment');
  if (assignment === undefined) throw noGateway(url, 'its answer about this device holds no assignment');
  return assignment;
}

/** What a problem answer says. One without a code isn't a site's. */
function refused(url: string, status: number, body: unknown): SitecastError {
  if (textOf(body, 'code') === undefined)
    return noGateway(url, `it answers to an enrolment as no gateway does, with status ${status}`);
  const detail = textOf(body, 'detail') ?? textOf(body, 'title') ?? `status ${status}`;
  return new SitecastError(
    status === 404 ? 'unreachable' : 'forbidden',
    'SITECAST_ENROLMENT_REFUSED',
    `${url} refuses to enrol this device: ${detail}`,
    { data: { url, status, code: textOf(body, 'code') } },
  );
}
