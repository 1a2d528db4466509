import type { MEMBER_ACTIONS } from '@sitecast/shared/audit';
import { SitecastError } from '@sitecast/shared/errors';
import { type Enrolment, readEnrolment } from '@sitecast/shared/fleet';
import { idOfPublicKey, type VerifySignature } from '@sitecast/shared/identity';
import { type AuditEvent, ORIGIN } from '../audit/audit.ts';
import { demandRoom, type Room } from '../room.ts';
import {
  alreadyIn,
  checkComplete,
  foreign,
  nameTaken,
  notBearer,
  notPending,
  revoked,
  siteMissing,
  siteOf,
} from './enrolment-errors.ts';
import type { FleetStore, StoredJoinToken } from './fleet-store.ts';
import { type JoinTokens, joinTokenUnknown, joinTokenUsedUp } from './join-tokens.ts';
import { type Member, type MemberKind, withName } from './member.ts';
import { validity } from './validity.ts';
import type { PendingMember, PendingMembers } from './pending.ts';
import { MAX_MEMBERS } from './registry.ts';

interface EnrolmentDeps {
  store: FleetStore;
  joinTokens: JoinTokens;
  pending: PendingMembers;
  verifyById: VerifySignature;
  /** Enrolments must leave the disk's reserve free. A refused member asks again. */
  room: Room;
  now: () => number;
}

/** What an operator may change of a member. */
export interface MemberChange {
  tags?: Record<string, string> | undefined;
  site?: string | undefined;
  /** Null removes the name. */
  name?: string | null | undefined;
}

/** An operator's decision to accept a waiting member. */
export interface Acceptance {
  /** The site of the new member. By default that of the replaced member, or the one where the new member was seen. */
  site?: string | undefined;
  /** The only name that the new member gets. Its requested name doesn't count. */
  name?: string | undefined;
  /** Id of the present bearer of the name. Its site and tags go to the new member with the name, and it is revoked. */
  replaces?: string | undefined;
}

/** How often a change is decided again after another change came first. */
const MAX_ATTEMPTS = 10;

/** Enrols devices and gateways, and changes their assignments. */
export class Enrolments {
  readonly pending: PendingMembers;
  readonly #deps: EnrolmentDeps;

  constructor(deps: EnrolmentDeps) {
    this.#deps = deps;
    this.pending = deps.pending;
  }

  /**
   * Handles the enrolment of a device or gateway.
   * @param envelope the signed enrolment; where there is a join token, the token's key has signed it, too
   * @param carrier who signed the request: the new member itself, or an enrolled gateway (`relay`)
   * @returns the member (also where it is enrolled already), or undefined: it waits to be accepted
   * @throws SITECAST_DOCUMENT_MALFORMED, SITECAST_DOCUMENT_UNTRUSTED, SITECAST_DEVICE_REVOKED,
   * SITECAST_ENROLMENT_FOREIGN, SITECAST_ENROLMENT_CONFLICT, SITECAST_ENROLMENT_INCOMPLETE, and the join token's codes
   */
  async enrol(
    envelope: unknown,
    { senderId, relay }: { senderId: string; relay: Member | undefined },
  ): Promise<Member | undefined> {
    const unverified = readEnrolment(envelope);
    const { id, token } = unverified.document;
    if (senderId !== id && !relay) throw foreign(id);
    // The member's own signature is expensive to verify. With an unknown join token that isn't needed.
    const tokenKey = token === undefined ? undefined : this.#keyOfToken(token, id);
    const enrolment = unverified.verify([id], this.#deps.verifyById);
    if (token !== undefined && tokenKey) unverified.verify([token], this.#verifyByToken(tokenKey));
    const known = this.#deps.store.registry.member(id);
    if (known) return alreadyIn(known, enrolment);
    checkComplete(enrolment);
    if (token !== undefined) return await this.#admitByToken(enrolment, relay, token);
    this.#addPending(enrolment, relay, { site: siteAskedBy(enrolment, relay), wish: enrolment.name });
    return undefined;
  }

  /** Verifies by a token's key with the fast method, because thousands of members may use one token. */
  #verifyByToken(publicKey: Buffer): VerifySignature {
    const id = idOfPublicKey(publicKey);
    return (_keyId, message, signature) => this.#deps.verifyById(id, message, signature);
  }

  /** An enrolled member may repeat its request after the token was deleted. */
  #keyOfToken(token: string, id: string) {
    const { store, joinTokens } = this.#deps;
    return store.registry.member(id) ? undefined : joinTokens.keyOf(token);
  }

  /** @returns undefined where the new member must wait: a token can't take a name from its bearer */
  async #admitByToken(
    enrolment: Enrolment,
    relay: Member | undefined,
    joinToken: string,
  ): Promise<Member | undefined> {
    const { store, joinTokens, pending, room } = this.#deps;
    const token = joinTokens.demandFor(joinToken, enrolment);
    const site = token.site ?? siteAskedBy(enrolment, relay);
    if (site === undefined) throw siteMissing(enrolment.kind);
    const name = token.name ?? enrolment.name;
    const wait = () => this.#addPending(enrolment, relay, { site, wish: name, joinToken });
    if (name !== undefined && store.registry.named(name)) {
      wait();
      return undefined;
    }
    const member = this.#newMember(enrolment, { site, name, letInBy: { joinToken } });
    await demandRoom(room);
    const admitted = await store.admit({
      member,
      joinToken: { id: joinToken, isRequired: true },
      events: [enrolEvent(member, token, relay?.id)],
    });
    switch (admitted.outcome) {
      case 'admitted':
        pending.remove(member.id);
        return member;
      case 'known':
        return alreadyIn(admitted.member, enrolment);
      case 'nameTaken':
        wait();
        return undefined;
      case 'joinTokenUsedUp':
        throw joinTokenUsedUp();
      default:
        throw joinTokenUnknown('forbidden');
    }
  }

  #addPending(
    enrolment: Enrolment,
    relay: Member | undefined,
    { site, wish, joinToken }: Record<'site' | 'wish', string | undefined> & { joinToken?: string },
  ): void {
    const { pending, now } = this.#deps;
    const asking = {
      ...identityOf(enrolment),
      ...(site !== undefined && { site }),
      ...(wish !== undefined && { wish }),
      ...(joinToken !== undefined && { joinToken }),
      ...(relay && { via: relay.id }),
    };
    pending.add(asking, now());
  }

  /**
   * An operator accepts a waiting member. The member that it replaces is revoked in the same commit.
   * @throws SITECAST_NOT_PENDING (notFound), SITECAST_SITE_MISSING, SITECAST_SITE_AMBIGUOUS, SITECAST_DEVICE_REVOKED,
   * SITECAST_NAME_TAKEN, SITECAST_NOT_NAMED_SO (conflict)
   */
  async accept(kind: MemberKind, id: string, acceptance: Acceptance, operator: string): Promise<Member> {
    const { site, name, replaces } = acceptance;
    const { store, pending, now } = this.#deps;
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
      const known = store.registry.member(id);
      if (known?.revokedAt !== undefined) throw revoked(known);
      if (known?.kind === kind && isAsSaid(known, acceptance)) return known;
      const waiting = pending.get(id, now());
      if (waiting?.kind !== kind || known) throw notPending(kind, id);
      const replaced = this.#bearerOf(kind, name, replaces);
      const where = siteOf(waiting, site ?? replaced?.site);
      const { tags } = replaced ?? {};
      const member = this.#newMember(waiting, { site: where, name, tags, letInBy: { operator } });
      if (await this.#admitAccepted(waiting, { member, replaced }, operator)) return member;
    }
    throw tooBusy();
  }

  /**
   * Commits the new member, the replaced member, the use of a token and the audit entry together.
   * @returns false where a member has changed meanwhile, and the acceptance must be decided again
   */
  async #admitAccepted(
    waiting: PendingMember,
    { member, replaced }: { member: Member; replaced: Member | undefined },
    operator: string,
  ): Promise<boolean> {
    const { id, name, site } = member;
    const details = { ...identityOf(waiting), site, name, replaces: replaced?.id };
    const events = [eventOf(operator, 'accept', member, details)];
    if (replaced) events.push(eventOf(operator, 'revoke', replaced, { name, replacedBy: id }));
    const { outcome } = await this.#deps.store.admit({
      member,
      joinToken: this.#useOf(waiting),
      replaces: replaced && { before: replaced, after: this.#revokedNow(replaced) },
      events,
    });
    if (outcome !== 'admitted') return false;
    this.#deps.pending.remove(id);
    return true;
  }

  /** The member to be replaced; undefined where there is none, and the name is free. */
  #bearerOf(kind: MemberKind, name: string | undefined, replaces: string | undefined): Member | undefined {
    if (name === undefined) return undefined;
    const bearer = this.#deps.store.registry.named(name);
    if (replaces === undefined && bearer) throw nameTaken(name, bearer);
    if (replaces !== undefined && (bearer?.id !== replaces || bearer.kind !== kind))
      throw notBearer(name, replaces, bearer);
    return bearer;
  }

  /** Uses up the token with which the member would have enrolled. If the token is used up already, the operator's decision still counts. */
  #useOf({ joinToken, ...asking }: PendingMember): { id: string; isRequired: false } | undefined {
    if (joinToken === undefined) return undefined;
    try {
      return { id: this.#deps.joinTokens.demandFor(joinToken, asking).id, isRequired: false };
    } catch (error) {
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  /** @throws SITECAST_DEVICE_UNKNOWN, SITECAST_GATEWAY_UNKNOWN, SITECAST_DEVICE_REVOKED, SITECAST_NAME_TAKEN */
  change(
    kind: MemberKind,
    id: string,
    { tags, site, name }: MemberChange,
    operator: string,
  ): Promise<Member> {
    return this.#change(kind, id, member => {
      if (member.revokedAt !== undefined) throw revoked(member);
      const named = name === undefined ? member : withName(member, name ?? undefined);
      const next = { ...named, tags: tags ?? member.tags, site: site ?? member.site };
      if (isSameAssignment(member, next)) return undefined;
      const after = { ...next, serial: member.serial + 1, ...validity(member.id, this.#deps.now()) };
      const before = { tags: member.tags, site: member.site, name: member.name };
      const details = { before, tags: after.tags, site: after.site, name: after.name };
      return { after, event: eventOf(operator, 'change', after, details) };
    });
  }

  /** Revokes a member for good, because its key may be stolen. It does nothing where the member is revoked already. */
  revoke(kind: MemberKind, id: string, operator: string): Promise<Member> {
    return this.#change(kind, id, member => {
      if (member.revokedAt !== undefined) return undefined;
      const after = this.#revokedNow(member);
      return { after, event: eventOf(operator, 'revoke', after) };
    });
  }

  /** @param judge returns the changed member, or undefined for no change; called again where the member has changed meanwhile */
  async #change(
    kind: MemberKind,
    id: string,
    judge: (member: Member) => { after: Member; event: AuditEvent } | undefined,
  ): Promise<Member> {
    const { store } = this.#deps;
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
      const before = store.registry.require(kind, id);
      const judged = judge(before);
      if (!judged) return before;
      const { after, event } = judged;
      const changed = await store.changeMember(before, after, event);
      if (changed.outcome === 'changed') return after;
      if (changed.outcome === 'nameTaken') throw nameTaken(after.name ?? '', changed.bearer);
    }
    throw tooBusy();
  }

  /** The member as revoked. It keeps its name, so that people can find it later; another member may get the name. */
  #revokedNow(member: Member): Member {
    const at = this.#nowIso();
    return { ...member, serial: member.serial + 1, changedAt: at, revokedAt: at };
  }

  #newMember(
    asking: Asking,
    { site, name, tags = {}, letInBy }: Pick<Member, 'site' | 'letInBy'> & Given,
  ): Member {
    if (this.#deps.store.registry.size >= MAX_MEMBERS) {
      throw new SitecastError(
        'conflict',
        'SITECAST_FLEET_FULL',
        `there are ${MAX_MEMBERS} devices and gateways already`,
      );
    }
    const nowMs = this.#deps.now();
    const enrolledAt = new Date(nowMs).toISOString();
    const term = validity(asking.id, nowMs);
    const known = { ...identityOf(asking), site, tags, serial: 1, enrolledAt, ...term, letInBy };
    return withName(known, name);
  }

  #nowIso(): string {
    return new Date(this.#deps.now()).toISOString();
  }
}

function siteAskedBy(enrolment: Enrolment, relay: Member | undefined): string | undefined {
  return enrolment.kind === 'device' ? relay?.site : enrolment.site;
}

/** The entry names the operator who made the token, because no operator accepted the member. */
function enrolEvent(member: Member, token: StoredJoinToken, via: string | undefined): AuditEvent {
  const { name, product, hardware, site } = member;
  const details = { joinToken: token.id, tokenBy: token.createdBy, name, product, hardware, site, via };
  return eventOf(ORIGIN, 'enrol', member, details);
}

/** The declared properties of a new member. */
type Asking = Pick<Enrolment, 'id' | 'kind' | 'product' | 'hardware'>;

interface Given {
  name: string | undefined;
  tags?: Member['tags'] | undefined;
}

function identityOf({
  id,
  kind,
  product,
  hardware,
}: Asking): Pick<Member, 'id' | 'kind' | 'product' | 'hardware'> {
  return {
    id,
    kind,
    ...(product !== undefined && { product }),
    ...(hardware !== undefined && { hardware }),
  };
}

function eventOf(
  by: string,
  what: (typeof MEMBER_ACTIONS)[number],
  { kind, id }: Member,
  details?: Record<string, unknown>,
): AuditEvent {
  return { by, action: `${kind}.${what}`, subject: `${kind}:${id}`, ...(details && { details }) };
}

/** Whether this acceptance was carried out already, and its answer was lost. */
function isAsSaid(known: Member, { site, name }: Acceptance): boolean {
  return (site === undefined || site === known.site) && (name === undefined || name === known.name);
}

function isSameAssignment(one: Member, other: Member): boolean {
  const names = Object.keys(one.tags);
  return (
    one.site === other.site &&
    one.name === other.name &&
    names.length === Object.keys(other.tags).length &&
    names.every(name => one.tags[name] === other.tags[name])
  );
}

/**
 * Other changes of the same member came first each time. That is a defect, because each failed attempt means that another change succeeded.
 */
function tooBusy(): Error {
  return new Error('a member has changed as often as a change of it was judged');
}
