import { SitecastError } from '@sitecast/shared/errors';
import { nameKey } from '@sitecast/shared/fleet';
import type { z } from 'zod';
import { type Member, type MemberKind, memberSchema } from './member.ts';
import { type Status, statusSchema } from './status.ts';
import { type FleetStore, keyOf, type Table, type Write } from './store.ts';

export const MAX_MEMBERS = 1_000_000;

/** What gateways say of whom they hear. */
interface HearsMembers {
  /** Milliseconds since 1970. */
  heardMs(member: Member): number | undefined;
  stateOf(member: Member): 'heard' | 'silent' | 'untold';
}

/**
 * Who belongs to the fleet and what is known of each. All of it is in memory, so that a check for a request and a
 * query touch no disk; the store is what lasts. Whoever changes something commits it to the store first.
 */
export class Registry {
  readonly store: FleetStore;
  readonly #members = new Map<string, Member>();
  /** Ids by name, of those that aren't revoked: who is revoked leaves its name to others. */
  readonly #idsByName = new Map<string, string>();
  readonly #statuses = new Map<string, Status>();
  readonly #kept = { bytes: 0, dropped: 0, devices: 0 };
  readonly #seenMs = new Map<string, number>();
  /** Ids in order, for listing; made anew after somebody joined. */
  #ids: string[] | undefined;
  #version = 0;
  /** Who hears members besides; nobody in a process that serves none. */
  presence: HearsMembers | undefined;

  private constructor(store: FleetStore) {
    this.store = store;
  }

  static async open(store: FleetStore): Promise<Registry> {
    const registry = new Registry(store);
    for await (const [key, value] of store.entries('member'))
      registry.#set(readStored('member', key, memberSchema, value));
    for await (const [key, value] of store.entries('status'))
      registry.#setStatus(readStored('status', key, statusSchema, value), key);
    for await (const [key, value] of store.entries('seen')) registry.#seenMs.set(key, Number(value));
    return registry;
  }

  /** Rises whenever a member comes or changes. */
  get version(): number {
    return this.#version;
  }

  get size(): number {
    return this.#members.size;
  }

  member(id: string): Member | undefined {
    return this.#members.get(id);
  }

  /** A member that isn't revoked. */
  activeMember(id: string): Member | undefined {
    const member = this.#members.get(id);
    return member?.revokedAt === undefined ? member : undefined;
  }

  /** Who bears this name now, whatever its case; none that is revoked. */
  named(name: string): Member | undefined {
    const id = this.#idsByName.get(nameKey(name));
    return id === undefined ? undefined : this.#members.get(id);
  }

  /** Names of those that have one, by id. */
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

  /**
   * Makes a member's new state durable, then known.
   * @param commit makes it durable, together with what it's told by
   */
  put(member: Member, commit: (writes: readonly Write[]) => Promise<void>): Promise<void> {
    return this.#put([member], commit);
  }

  /**
   * The same for several.
   * @param commit makes the write of each member durable, in their order
   */
  putAll(members: readonly Member[], commit: (writes: readonly Write[]) => Promise<void>): Promise<void> {
    return this.#put(members, commit);
  }

  async #put(members: readonly Member[], commit: (writes: readonly Write[]) => Promise<void>): Promise<void> {
    await commit(members.map(member => ({ table: 'member', key: member.id, value: member })));
    for (const member of members) {
      if (!this.#members.has(member.id)) this.#ids = undefined;
      this.#set(member);
      this.#version += 1;
    }
  }

  #set(member: Member): void {
    const { id, name, revokedAt } = member;
    const before = this.#members.get(id)?.name;
    if (before !== undefined && this.#idsByName.get(nameKey(before)) === id)
      this.#idsByName.delete(nameKey(before));
    if (name !== undefined && revokedAt === undefined) this.#idsByName.set(nameKey(name), id);
    this.#members.set(id, member);
  }

  /** Takes over statuses that are durable already. */
  setStatuses(statuses: Iterable<Status>): void {
    for (const status of statuses) this.#setStatus(status, status.id);
  }

  #setStatus(status: Status, id: string): void {
    const before = this.#statuses.get(id)?.kept;
    const { kept } = status;
    this.#kept.bytes += (kept?.bytes ?? 0) - (before?.bytes ?? 0);
    this.#kept.dropped += (kept?.dropped ?? 0) - (before?.dropped ?? 0);
    this.#kept.devices += Number(kept !== undefined) - Number(before !== undefined);
    this.#statuses.set(id, status);
  }

  /** Of all reports that are kept, as far as they are counted. */
  get kept(): Readonly<{ bytes: number; dropped: number; devices: number }> {
    return this.#kept;
  }

  /** Some of those whose kept reports nobody has counted yet. */
  uncounted(limit: number): string[] {
    const found: string[] = [];
    if (this.#kept.devices === this.#statuses.size) return found;
    for (const [id, { kept }] of this.#statuses) {
      if (kept === undefined) found.push(id);
      if (found.length === limit) break;
    }
    return found;
  }

  /** Those of whom more bytes of reports are kept, the most first. */
  keepingMoreThan(bytes: number): string[] {
    return [...this.#statuses.values()]
      .filter(({ kept }) => (kept?.bytes ?? 0) > bytes)
      .sort((one, other) => (other.kept?.bytes ?? 0) - (one.kept?.bytes ?? 0))
      .map(({ id }) => id);
  }

  saw(id: string, nowMs: number): void {
    this.#seenMs.set(id, nowMs);
    this.#unsaved.add(id);
  }

  /** Somebody else heard it then; what is known of a later moment stays. */
  wasHeard(id: string, atMs: number): void {
    if ((this.#seenMs.get(id) ?? 0) < atMs) this.saw(id, atMs);
  }

  seenMs(id: string): number | undefined {
    return this.#seenMs.get(id);
  }

  /** The same, or when a gateway last said that it hears it. */
  lastSeenMs(member: Member): number | undefined {
    const heardMs = this.presence?.heardMs(member) ?? 0;
    return Math.max(heardMs, this.seenMs(member.id) ?? 0) || undefined;
  }

  readonly #unsaved = new Set<string>();

  /** Keeps when members were last heard of. Told now and then: after a crash the minutes since are missing. */
  async saveSeen(): Promise<void> {
    const writes = [...this.#unsaved].map(id => ({
      table: 'seen' as const,
      key: id,
      value: this.#seenMs.get(id),
    }));
    if (writes.length === 0) return;
    this.#unsaved.clear();
    try {
      await this.store.commit(writes);
    } catch (error) {
      for (const { key } of writes) this.#unsaved.add(key);
      throw error;
    }
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

/** @throws SITECAST_STATE_DAMAGED (failed) */
export function readStored<T>(table: Table, key: string, schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new SitecastError(
    'failed',
    'SITECAST_STATE_DAMAGED',
    `the database holds something unreadable at ${keyOf(table, key)}`,
    {
      hint: 'Look for a failing disk. Bring the whole data directory back from a backup, or run `sitecast-origin recover`.',
      cause: parsed.error,
    },
  );
}
