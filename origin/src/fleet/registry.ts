import { SitecastError } from '@sitecast/shared/errors';
import { nameKey } from '@sitecast/shared/fleet';
import type { Member, MemberKind } from './member.ts';
import { isRenewal } from './validity.ts';
import { Population } from './population.ts';
import type { Status } from './status.ts';

export const MAX_MEMBERS = 1_000_000;

/**
 * The members of the fleet and the state of their reports, in memory: checking a request and answering a query read no disk. The fleet's
 * store updates it with each commit. Only the times when members were last heard change without a commit.
 */
export class Registry {
  readonly #members = new Map<string, Member>();
  /** Ids by name, of members that aren't revoked: a revoked member leaves its name to others. */
  readonly #idsByName = new Map<string, string>();
  readonly #statuses = new Map<string, Status>();
  readonly #kept = { bytes: 0, dropped: 0, devices: 0 };
  /** How many devices there are, by what they run and by site. */
  readonly population = new Population();
  readonly #seenMs = new Map<string, number>();
  /** Ids of members that were heard since those times were last made durable. */
  #unsavedSeen = new Set<string>();
  /** Ids in order, for lists; sorted again after a member joined. */
  #ids: string[] | undefined;
  #version = 0;

  /** Rises with every new member, and every change of one but a renewal. */
  get version(): number {
    return this.#version;
  }

  get size(): number {
    return this.#members.size;
  }

  member(id: string): Member | undefined {
    return this.#members.get(id);
  }

  /** The member, unless it is revoked. */
  activeMember(id: string): Member | undefined {
    const member = this.#members.get(id);
    return member?.revokedAt === undefined ? member : undefined;
  }

  /** The member that bears this name now, whatever its case; none that is revoked. */
  named(name: string): Member | undefined {
    const id = this.#idsByName.get(nameKey(name));
    return id === undefined ? undefined : this.#members.get(id);
  }

  /** Names of the members that have one, by id. */
  namesOf(ids: Iterable<string>): Record<string, string> {
    const names: Record<string, string> = {};
    for (const id of ids) {
      const name = this.#members.get(id)?.name;
      if (name !== undefined) names[id] = name;
    }
    return names;
  }

  status(id: string): Status | undefined {
    return this.#statuses.get(id);
  }

  members(): Iterable<Member> {
    return this.#members.values();
  }

  /** @throws SITECAST_DEVICE_UNKNOWN, SITECAST_GATEWAY_UNKNOWN (notFound) */
  require(kind: MemberKind, id: string): Member {
    const member = this.#members.get(id);
    if (member?.kind === kind) return member;
    throw new SitecastError(
      'notFound',
      kind === 'device' ? 'SITECAST_DEVICE_UNKNOWN' : 'SITECAST_GATEWAY_UNKNOWN',
      `no ${kind} with the id ${id} is enrolled`,
    );
  }

  /** Members in the order of their ids, from the one after `after`. */
  *from(after: string | undefined): Generator<Member> {
    const ids = (this.#ids ??= [...this.#members.keys()].sort());
    for (let at = after === undefined ? 0 : firstAfter(ids, after); at < ids.length; at += 1) {
      const member = this.#members.get(ids[at] ?? '');
      if (member) yield member;
    }
  }

  /** Stores a member that is durable. */
  put(member: Member): void {
    const { id, name, revokedAt } = member;
    const before = this.#members.get(id);
    if (!before) this.#ids = undefined;
    if (!before || !isRenewal(before, member)) this.#version += 1;
    if (before?.name !== undefined && this.#idsByName.get(nameKey(before.name)) === id)
      this.#idsByName.delete(nameKey(before.name));
    if (name !== undefined && revokedAt === undefined) this.#idsByName.set(nameKey(name), id);
    this.#members.set(id, member);
    const status = this.#statuses.get(id);
    this.population.change(before, status, member, status);
  }

  /** Stores a status that is durable. */
  putStatus(status: Status): void {
    const { id, kept } = status;
    const known = this.#statuses.get(id);
    const before = known?.kept;
    this.#kept.bytes += (kept?.bytes ?? 0) - (before?.bytes ?? 0);
    this.#kept.dropped += (kept?.dropped ?? 0) - (before?.dropped ?? 0);
    this.#kept.devices += Number(kept !== undefined) - Number(before !== undefined);
    this.#statuses.set(id, status);
    const member = this.#members.get(id);
    if (member) this.population.change(member, known, member, status);
  }

  /** The totals of all kept reports, as far as they are counted. */
  get kept(): Readonly<{ bytes: number; dropped: number; devices: number }> {
    return this.#kept;
  }

  /** Some of the members whose kept reports aren't counted yet. */
  uncounted(limit: number): string[] {
    const found: string[] = [];
    if (this.#kept.devices === this.#statuses.size) return found;
    for (const [id, { kept }] of this.#statuses) {
      if (kept === undefined) found.push(id);
      if (found.length === limit) break;
    }
    return found;
  }

  /** Members with more bytes of kept reports than this, the most first. */
  keepingMoreThan(bytes: number): string[] {
    return [...this.#statuses.values()]
      .filter(({ kept }) => (kept?.bytes ?? 0) > bytes)
      .sort((one, other) => (other.kept?.bytes ?? 0) - (one.kept?.bytes ?? 0))
      .map(({ id }) => id);
  }

  saw(id: string, nowMs: number): void {
    this.#seenMs.set(id, nowMs);
    this.#unsavedSeen.add(id);
  }

  /** Records when a gateway heard the member. A later known time stays. */
  wasHeard(id: string, atMs: number): void {
    if ((this.#seenMs.get(id) ?? 0) < atMs) this.saw(id, atMs);
  }

  /** Stores the time when a member was seen, as it is stored on disk. */
  putSeen(id: string, seenMs: number): void {
    this.#seenMs.set(id, seenMs);
  }

  seenMs(id: string): number | undefined {
    return this.#seenMs.get(id);
  }

  /** The times of members whose time isn't durable yet. They count as saved from now on. */
  takeUnsavedSeen(): Map<string, number> {
    const ids = this.#unsavedSeen;
    this.#unsavedSeen = new Set();
    return new Map(Array.from(ids, id => [id, this.#seenMs.get(id) ?? 0]));
  }

  /** These times could not be saved. */
  giveBackUnsavedSeen(ids: Iterable<string>): void {
    for (const id of ids) this.#unsavedSeen.add(id);
  }
}

function firstAfter(sorted: readonly string[], after: string): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle] ?? '') <= after) low = middle + 1;
    else high = middle;
  }
  return low;
}
