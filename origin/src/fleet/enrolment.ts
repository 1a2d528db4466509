import { SitecastError } from '@sitecast/shared/errors';
import { type Enrolment, nameKey, readEnrolment } from '@sitecast/shared/fleet';
import { idOfPublicKey, type VerifySignature } from '@sitecast/shared/identity';
import pLimit from 'p-limit';
import { type Audit, type AuditEvent, ORIGIN } from '../audit/audit.ts';
import { demandRoom, type Room } from '../storage/room.ts';
import {
  alreadyIn,
  checkComplete,
  foreign,
  notPending,
  revoked,
  siteMissing,
  siteOf,
} from './enrolment-errors.ts';
import type { AdmittedBy, JoinTokens } from './join-tokens.ts';
import type { Member, MemberKind } from './member.ts';
import { nameTaken, notBearer, withName } from './naming.ts';
import type { PendingMember, PendingMembers } from './pending.ts';
import { MAX_MEMBERS, type Registry } from './registry.ts';
import type { Write } from './store.ts';

interface EnrolmentDeps {
  registry: Registry;
  joinTokens: JoinTokens;
  pending: PendingMembers;
  audit: Audit;
  verifyById: VerifySignature;
  /** Newcomers leave the reserve alone: they ask again. */
  room: Room;
  now: () => number;
}

/** What an operator may change of a member. */
export interface MemberChange {
  tags?: Record<string, string> | undefined;
  site?: string | undefined;
  /** Null: none any more. */
  name?: string | null | undefined;
}

/** What an operator says of one that is to be let in. */
export interface Acceptance {
  /** Where it is; without it, where the replaced one is, or where it was seen. */
  site?: string | undefined;
  /** What it wishes isn't what it gets: only what is said here. */
  name?: string | undefined;
  /** Id of the one that bears the name now: its site and tags go over with the name, and it's revoked. */
  replaces?: string | undefined;
}

interface Newcomer {
  enrolment: Enrolment;
  relay: Member | undefined;
  resolve: (member: Member | undefined) => void;
  reject: (error: unknown) => void;
}

/** One that comes in with a token, and isn't durable yet. */
interface Admitted {
  member: Member;
  by: AdmittedBy;
  /** The gateway that brought it. */
  via: string | undefined;
}

/** Lets devices and gateways in, and changes what they are. One change at a time. */
export class Enrolments {
  readonly pending: PendingMembers;
  readonly #deps: EnrolmentDeps;
  readonly #serial = pLimit(1);
  readonly #newcomers: Newcomer[] = [];

  constructor(deps: EnrolmentDeps) {
    this.#deps = deps;
    this.pending = deps.pending;
  }

  /**
   * A newcomer asks to be known.
   * @param envelope the enrolment that it signed, and the join token's key as well if it has one
   * @param carrier who signed the request: the newcomer itself, or an enrolled gateway (`relay`) that brings it
   * @returns the member (again the same for one that is in already), or undefined: it waits to be accepted
   * @throws SITECAST_DOCUMENT_MALFORMED, SITECAST_DOCUMENT_UNTRUSTED, SITECAST_DEVICE_REVOKED,
   *   SITECAST_ENROLMENT_FOREIGN, SITECAST_ENROLMENT_CONFLICT, SITECAST_ENROLMENT_INCOMPLETE, and the join token's codes
   */
  async enrol(
    envelope: unknown,
    { senderId, relay }: { senderId: string; relay: Member | undefined },
  ): Promise<Member | undefined> {
    const unverified = readEnrolment(envelope);
    const { id, token } = unverified.document;
    if (senderId !== id && !relay) throw foreign(id);
    // The newcomer's own signature is dear to check: a join token that isn't there saves it.
    const tokenKey = token === undefined ? undefined : this.#keyOfToken(token, id);
    const enrolment = unverified.verify([id], this.#deps.verifyById);
    if (token !== undefined && tokenKey) unverified.verify([token], this.#verifyByToken(tokenKey));
    return await new Promise((resolve, reject) => {
      this.#newcomers.push({ enrolment, relay, resolve, reject });
      // Those that come while the disk is busy share the next write.
      if (this.#newcomers.length === 1) void this.#serial(() => this.#letIn(this.#newcomers.splice(0)));
    });
  }

  /** A token's key is checked as fast as an id's: thousands of newcomers may come with one token. */
  #verifyByToken(publicKey: Buffer): VerifySignature {
    const id = idOfPublicKey(publicKey);
    return (_keyId, message, signature) => this.#deps.verifyById(id, message, signature);
  }

  /** For one that is in already a token needn't exist any more. */
  #keyOfToken(token: string, id: string) {
    return this.#deps.registry.member(id) ? undefined : this.#deps.joinTokens.keyOf(token);
  }

  async #letIn(newcomers: readonly Newcomer[]): Promise<void> {
    const { registry, joinTokens, pending } = this.#deps;
    const { admitted, waiting } = this.#judge(newcomers);
    const members = admitted.map(({ member }) => member);
    try {
      if (members.length > 0) {
        await demandRoom(this.#deps.room);
        await registry.putAll(members, writes => this.#recordEnrolments([...admitted], writes));
      }
    } catch (error) {
      for (const { by } of admitted.reverse()) joinTokens.giveBack(by);
      for (const { newcomer } of waiting) newcomer.reject(error);
      return;
    }
    for (const { id } of members) pending.remove(id);
    for (const { newcomer, member } of waiting) newcomer.resolve(member);
  }

  /** Refuses whom it must. @returns who comes in, and all others' answers: to be given once those are durable */
  #judge(newcomers: readonly Newcomer[]) {
    const admitted = new Map<string, Admitted>();
    const names = new Set<string>();
    const isTaken = (name: string) =>
      names.has(nameKey(name)) || this.#deps.registry.named(name) !== undefined;
    const waiting: { newcomer: Newcomer; member: Member | undefined }[] = [];
    for (const newcomer of newcomers) {
      const { enrolment, relay, reject } = newcomer;
      const { id } = enrolment;
      try {
        const known = this.#deps.registry.member(id) ?? admitted.get(id)?.member;
        const found = known ? undefined : this.#admit(enrolment, relay, isTaken);
        if (found) admitted.set(id, found);
        if (found?.member.name !== undefined) names.add(nameKey(found.member.name));
        waiting.push({ newcomer, member: known ? alreadyIn(known, enrolment) : found?.member });
      } catch (error) {
        reject(error);
      }
    }
    return { admitted: [...admitted.values()], waiting };
  }

  /** @returns undefined for one that waits: it has no token, or its name is another's */
  #admit(
    enrolment: Enrolment,
    relay: Member | undefined,
    isTaken: (name: string) => boolean,
  ): Admitted | undefined {
    const { joinTokens } = this.#deps;
    checkComplete(enrolment);
    const { kind, token } = enrolment;
    const asked = kind === 'device' ? relay?.site : enrolment.site;
    if (token === undefined) {
      this.#addPending(enrolment, relay, { site: asked, wish: enrolment.name });
      return undefined;
    }
    const by = joinTokens.admit(token, enrolment);
    try {
      const site = by.before.site ?? asked;
      if (site === undefined) throw siteMissing(kind);
      const name = by.before.name ?? enrolment.name;
      if (name !== undefined && isTaken(name)) {
        // A token lets nobody take another's place.
        joinTokens.giveBack(by);
        this.#addPending(enrolment, relay, { site, wish: name, joinToken: token });
        return undefined;
      }
      const member = this.#newMember(enrolment, { site, name, letInBy: { joinToken: token } });
      return { member, by, via: relay?.id };
    } catch (error) {
      joinTokens.giveBack(by);
      throw error;
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
   * An operator lets one in that waits. Whom it replaces is revoked in the same write.
   * @throws SITECAST_NOT_PENDING (notFound), SITECAST_SITE_MISSING, SITECAST_SITE_AMBIGUOUS, SITECAST_DEVICE_REVOKED,
   *   SITECAST_NAME_TAKEN, SITECAST_NOT_NAMED_SO (conflict)
   */
  accept(kind: MemberKind, id: string, acceptance: Acceptance, operator: string): Promise<Member> {
    const { site, name, replaces } = acceptance;
    return this.#serial(async () => {
      const { registry, pending, now } = this.#deps;
      const known = registry.member(id);
      if (known?.revokedAt !== undefined) throw revoked(known);
      if (known?.kind === kind && isAsSaid(known, acceptance)) return known;
      const waiting = pending.get(id, now());
      if (waiting?.kind !== kind || known) throw notPending(kind, id);
      const replaced = this.#bearerOf(kind, name, replaces);
      const where = siteOf(waiting, site ?? replaced?.site);
      const { tags } = replaced ?? {};
      const member = this.#newMember(waiting, { site: where, name, tags, letInBy: { operator } });
      await this.#letInFor(waiting, { member, replaced }, operator);
      pending.remove(id);
      return member;
    });
  }

  /** The newcomer, the one that it replaces, its use of a token, and what tells of it all: one write. */
  async #letInFor(
    waiting: PendingMember,
    { member, replaced }: { member: Member; replaced: Member | undefined },
    operator: string,
  ): Promise<void> {
    const { registry, joinTokens, audit } = this.#deps;
    const { id, name, site } = member;
    const details = { ...identityOf(waiting), site, name, replaces: replaced?.id };
    const events = [eventOf(operator, 'accept', member, details)];
    if (replaced) events.push(eventOf(operator, 'revoke', replaced, { name, replacedBy: id }));
    const members = replaced ? [member, this.#revokedNow(replaced)] : [member];
    const by = this.#useOf(waiting);
    try {
      await registry.putAll(members, writes => audit.record(events, by ? [...writes, by.write] : writes));
    } catch (error) {
      if (by) joinTokens.giveBack(by);
      throw error;
    }
  }

  /** The one to be replaced; undefined where nobody is, and the name is free. */
  #bearerOf(kind: MemberKind, name: string | undefined, replaces: string | undefined): Member | undefined {
    if (name === undefined) return undefined;
    const bearer = this.#deps.registry.named(name);
    if (replaces === undefined && bearer) throw nameTaken(name, bearer);
    if (replaces !== undefined && (bearer?.id !== replaces || bearer.kind !== kind))
      throw notBearer(name, replaces, bearer);
    return bearer;
  }

  /** A token that would have let it in is used by that. One that is used up by now isn't missed: an operator says so. */
  #useOf({ joinToken, ...asking }: PendingMember): AdmittedBy | undefined {
    if (joinToken === undefined) return undefined;
    try {
      return this.#deps.joinTokens.admit(joinToken, asking);
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
    return this.#serial(async () => {
      const { registry, now } = this.#deps;
      const member = registry.require(kind, id);
      if (member.revokedAt !== undefined) throw revoked(member);
      const named = name === undefined ? member : withName(member, name ?? undefined);
      const next = { ...named, tags: tags ?? member.tags, site: site ?? member.site };
      const bearer = next.name === undefined ? undefined : registry.named(next.name);
      if (next.name !== undefined && bearer && bearer.id !== id) throw nameTaken(next.name, bearer);
      if (isSameAssignment(member, next)) return member;
      const changed = { ...next, serial: member.serial + 1, changedAt: new Date(now()).toISOString() };
      const before = { tags: member.tags, site: member.site, name: member.name };
      const details = { before, tags: changed.tags, site: changed.site, name: changed.name };
      await registry.put(changed, this.#recorded(operator, 'change', changed, details));
      return changed;
    });
  }

  /** For good: its key may be in other hands. Does nothing for one that is revoked already. */
  revoke(kind: MemberKind, id: string, operator: string): Promise<Member> {
    return this.#serial(async () => {
      const { registry } = this.#deps;
      const member = registry.require(kind, id);
      if (member.revokedAt !== undefined) return member;
      const changed = this.#revokedNow(member);
      await registry.put(changed, this.#recorded(operator, 'revoke', changed));
      return changed;
    });
  }

  /** It keeps its name, for those who look for it later; others may have it. */
  #revokedNow(member: Member): Member {
    const at = new Date(this.#deps.now()).toISOString();
    return { ...member, serial: member.serial + 1, changedAt: at, revokedAt: at };
  }

  /** Each newcomer, its use of a join token, and the entry that tells of it, in one write. No operator did it; but one made the token. */
  async #recordEnrolments(admitted: readonly Admitted[], members: readonly Write[]): Promise<void> {
    const recorded = admitted.map(({ member, by: { before, write }, via }, at) => {
      const { name, product, hardware, site } = member;
      const details = { joinToken: before.id, tokenBy: before.createdBy, name, product, hardware, site, via };
      return this.#recorded(ORIGIN, 'enrol', member, details)([...members.slice(at, at + 1), write]);
    });
    await Promise.all(recorded);
  }

  /** What is told and done, in one write. */
  #recorded(by: string, what: string, member: Member, details?: Record<string, unknown>) {
    const event = eventOf(by, what, member, details);
    return (writes: readonly Write[]) => this.#deps.audit.record(event, writes);
  }

  #newMember(
    asking: Asking,
    { site, name, tags = {}, letInBy }: Pick<Member, 'site' | 'letInBy'> & Given,
  ): Member {
    if (this.#deps.registry.size >= MAX_MEMBERS) {
      throw new SitecastError(
        'conflict',
        'SITECAST_FLEET_FULL',
        `there are ${MAX_MEMBERS} devices and gateways already`,
      );
    }
    const at = new Date(this.#deps.now()).toISOString();
    const known = { ...identityOf(asking), site, tags, serial: 1, enrolledAt: at, changedAt: at, letInBy };
    return withName(known, name);
  }
}

/** What a newcomer says that it is. */
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
  what: string,
  { kind, id }: Member,
  details?: Record<string, unknown>,
): AuditEvent {
  return { by, action: `${kind}.${what}`, subject: `${kind}:${id}`, ...(details && { details }) };
}

/** An acceptance that was carried out already: its answer may have got lost. */
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
