import type { MemberKind } from './member.ts';

/** Newcomers that ask without a token: through known gateways, and strangers that came themselves. */
export const MAX_PENDING_RELAYED = 1000;
export const MAX_PENDING_DIRECT = 200;
/** How long one is remembered that has stopped asking. */
export const PENDING_TTL_MS = 24 * 3_600_000;

/** Who waits to be let in. */
export interface PendingMember {
  id: string;
  kind: MemberKind;
  product?: string;
  hardware?: string;
  /** Of the gateway that relays, or what a gateway asks for. */
  site?: string;
  via?: string;
  /** What it wants to be called, by its own word or its token's. */
  wish?: string;
  /** Id of a join token that would have let it in, were its name free. */
  joinToken?: string;
  firstAskedMs: number;
  lastAskedMs: number;
}

/**
 * Those that wait. In memory: who still wants to come in asks again within a minute, and strangers shouldn't be able
 * to fill the disk. Strangers can't push those out whom a gateway vouches for: each sort has its own bound, beyond
 * which the one that has been silent the longest makes way.
 */
export class PendingMembers {
  readonly #byId = new Map<string, PendingMember>();

  add(asking: Omit<PendingMember, 'firstAskedMs' | 'lastAskedMs'>, nowMs: number): void {
    this.#expire(nowMs);
    const known = this.#byId.get(asking.id);
    // A stranger's request doesn't take away what a gateway said.
    if (known?.via !== undefined && asking.via === undefined) {
      this.#byId.set(asking.id, { ...known, lastAskedMs: nowMs });
      return;
    }
    this.#byId.delete(asking.id);
    this.#byId.set(asking.id, { ...asking, firstAskedMs: known?.firstAskedMs ?? nowMs, lastAskedMs: nowMs });
    const isRelayed = asking.via !== undefined;
    const alike = [...this.#byId.values()].filter(({ via }) => (via !== undefined) === isRelayed);
    if (alike.length <= (isRelayed ? MAX_PENDING_RELAYED : MAX_PENDING_DIRECT)) return;
    const silent = alike.reduce((one, other) => (other.lastAskedMs < one.lastAskedMs ? other : one));
    this.#byId.delete(silent.id);
  }

  get(id: string, nowMs: number): PendingMember | undefined {
    this.#expire(nowMs);
    return this.#byId.get(id);
  }

  remove(id: string): void {
    this.#byId.delete(id);
  }

  /** In the order of their first requests. */
  list(kind: MemberKind, nowMs: number): PendingMember[] {
    this.#expire(nowMs);
    return [...this.#byId.values()]
      .filter(pending => pending.kind === kind)
      .sort((one, other) => one.firstAskedMs - other.firstAskedMs || one.id.localeCompare(other.id));
  }

  #expire(nowMs: number): void {
    for (const { id, lastAskedMs } of this.#byId.values()) {
      if (Math.abs(nowMs - lastAskedMs) >= PENDING_TTL_MS) this.#byId.delete(id);
    }
  }
}
