import { randomBytes } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import { type Assignment, openAssignment, sealEnrolment, supersedes } from '@sitecast/shared/fleet';
import type { Identity } from '@sitecast/shared/identity';
import type { KeyPair } from '@sitecast/shared/signing';
import type { RoleSigners } from '@sitecast/shared/trust';
import type { StateFile } from '../state/state-file.ts';
import { assignmentReader, problemReader } from './answers.ts';
import { type Gateways, noGateway } from './gateways.ts';

export interface MembershipOptions {
  gateways: Gateways;
  identity: Identity;
  stateFile: StateFile;
  product: string;
  hardware: string;
  /** The name that the device asks for. */
  wish: string | undefined;
  /** The join token's key, where there is a token. */
  token: KeyPair | undefined;
}

/** What the origin says this device is. Where it says nothing yet, the device enrols. */
export class Membership {
  readonly #options: MembershipOptions;
  /** The assignment that was read last: each peer that is served needs it. */
  #read: { envelope: unknown; signers: RoleSigners; assignment: Assignment | undefined } | undefined;

  constructor(options: MembershipOptions) {
    this.#options = options;
  }

  /** The newest assignment that is stored and verifies; undefined before enrolment. */
  stored(signers: RoleSigners): Assignment | undefined {
    const { stateFile, identity } = this.#options;
    const envelope = stateFile.current.assignment;
    if (this.#read?.envelope !== envelope || this.#read?.signers !== signers)
      this.#read = { envelope, signers, assignment: readAssignment(envelope, identity.id, signers) };
    return this.#read.assignment;
  }

  /**
   * Fetches the assignment, or enrols. Keeps the newest assignment, whichever gateway sent it. Where a gateway says
   * "unknown" or "pending", or sends what the origin hasn't signed, each other gateway is asked once.
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
    // Stored first: so a repetition after any interruption is the same request, and uses the token once.
    if (stateFile.current.enrolmentNonce === undefined) await stateFile.change({ enrolmentNonce: nonce });
    const envelope = await sealEnrolment(
      {
        format: 'sitecast-enrolment-1',
        id: identity.id,
        nonce,
        kind: 'device',
        product,
        hardware,
        // A gateway or origin of a release that knows no names ignores it.
        ...(wish === undefined ? {} : { name: wish }),
        ...(token ? { token: token.keyId } : {}),
      },
      identity,
      token,
    );
    const assignment = await gateways.find(async gateway => {
      const { status, body } = await gateways.post(gateway, '/site/v1/enrolments', { envelope }, signal);
      if (status === 202 && assignmentReader.parse(body).state === 'pending') return undefined;
      if (status === 200) return this.#verified(assignmentIn(gateway.url, body), signers);
      throw refused(gateway.url, status, body);
    }, signal);
    return (await this.#keepNewest(assignment, signers)) ?? 'pending';
  }

  /** @returns the envelope; undefined where the origin hasn't signed it for this device */
  #verified(envelope: unknown, signers: RoleSigners): unknown {
    return readAssignment(envelope, this.#options.identity.id, signers) && envelope;
  }

  async #keepNewest(envelope: unknown, signers: RoleSigners): Promise<Assignment | undefined> {
    const { stateFile, identity } = this.#options;
    const stored = this.stored(signers);
    const found = readAssignment(envelope, identity.id, signers);
    if (!found || (stored && !supersedes(found, stored))) return stored;
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
    // Forged, or signed with a key that is no longer trusted: it counts as none.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

function assignmentIn(url: string, body: unknown): unknown {
  const { assignment } = assignmentReader.parse(body);
  if (assignment === undefined) throw noGateway(url, 'its answer about this device holds no assignment');
  return assignment;
}

/** The error for a refusal. An answer without a code isn't a gateway's. */
function refused(url: string, status: number, body: unknown): SitecastError {
  const { code, detail, title } = problemReader.parse(body);
  if (code === undefined)
    return noGateway(url, `it answers to an enrolment as no gateway does, with status ${status}`);
  return new SitecastError(
    status === 404 ? 'unreachable' : 'forbidden',
    'SITECAST_ENROLMENT_REFUSED',
    `${url} refuses to enrol this device: ${detail ?? title ?? `status ${status}`}`,
    { data: { url, status, code } },
  );
}
