import { FairPool, type Lease } from '@sitecast/shared/bounded';
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
  /** Of the gateway that relays, or what a gateway asks for. Of a device that several sites have shown: of the first. */
  site?: string;
  /** All sites that have shown a device, the first one first; where it's more than one, nobody but an operator can tell. */
  sites?: string[];
  via?: string;
  /** What it wants to be called, by its own word or its token's. */
  wish?: string;
  /** Id of a join token that would have let it in, were its name free. */
  joinToken?: string;
  firstAskedMs: number;
  lastAskedMs: number;
}

/** Sites that are remembered of one device. */
const MAX_SITES = 8;

type Asking = Omit<PendingMember, 'firstAskedMs' | 'lastAskedMs'>;

interface Waiting {
  member: PendingMember;
  /** Who answers for its place. */
  owner: string;
  /** Its place. It's taken back where room is needed. */
  place: Lease | undefined;
}

/** Strangers are one owner: whatever they call themselves by is made up. */
const STRANGERS = '';

/**
 * Those that wait. In memory: who still wants to come in asks again within a minute, and strangers shouldn't be able
 * to fill the disk. Strangers can't push those out whom a gateway vouches for, nor one gateway those of another: each sort has its
 * own bound, beyond which the gateway with the most waiting loses the one that has been silent the longest.
 */
export class PendingMembers {
  readonly #byId = new Map<string, Waiting>();
  readonly #relayed = new FairPool({ max: MAX_PENDING_RELAYED });
  readonly #direct = new FairPool({ max: MAX_PENDING_DIRECT });

  add(asking: Asking, nowMs: number): void {
    this.#expire(nowMs);
    const { member: known, owner: before } = this.#byId.get(asking.id) ?? {};
    const member = {
      ...merged(known, asking),
      firstAskedMs: known?.firstAskedMs ?? nowMs,
      lastAskedMs: nowMs,
    };
    const { id, via } = member;
    this.remove(id);
    const pool = via === undefined ? this.#direct : this.#relayed;
    const owner = via === undefined ? STRANGERS : this.#answering(before, asking.via ?? via);
    const waiting: Waiting = { member, owner, place: undefined };
    this.#byId.set(id, waiting);
    waiting.place = pool.lease(owner, 1, () => this.#byId.delete(id));
    // No place is ever refused: they can all be taken back.
    if (!waiting.place) this.#byId.delete(id);
  }

  /** Of several gateways that show the same one, the one with fewer waiting: another's flood doesn't push it out. */
  #answering(before: string | undefined, via: string): string {
    if (before === undefined || before === STRANGERS) return via;
    return this.#relayed.usedBy(via) < this.#relayed.usedBy(before) ? via : before;
  }

  get(id: string, nowMs: number): PendingMember | undefined {
    this.#expire(nowMs);
    return this.#byId.get(id)?.member;
  }

  remove(id: string): void {
    this.#byId.get(id)?.place?.release();
    this.#byId.delete(id);
  }

  /** In the order of their first requests. */
  list(kind: MemberKind, nowMs: number): PendingMember[] {
    this.#expire(nowMs);
    return Array.from(this.#byId.values(), ({ member }) => member)
      .filter(pending => pending.kind === kind)
      .sort((one, other) => one.firstAskedMs - other.firstAskedMs || one.id.localeCompare(other.id));
  }

  #expire(nowMs: number): void {
    for (const { id, lastAskedMs } of Array.from(this.#byId.values(), ({ member }) => member))
      if (Math.abs(nowMs - lastAskedMs) >= PENDING_TTL_MS) this.remove(id);
  }
}

/**
 * A stranger's request doesn't take away what a gateway said, nor one gateway's what another said before: who has seen a device's
 * signed request can play it at another site. What a gateway asks for is its own signed word.
 */
function merged(known: PendingMember | undefined, asking: Asking): Asking {
  if (known?.via === undefined) return withSites(asking, []);
  if (asking.via === undefined) return known;
  if (asking.kind === 'gateway') return asking;
  const { site = asking.site, via } = known;
  return withSites({ ...asking, via, ...(site !== undefined && { site }) }, known.sites ?? [], asking.site);
}

function withSites(asking: Asking, known: readonly string[], seenAt = asking.site): Asking {
  if (asking.via === undefined || asking.kind === 'gateway' || seenAt === undefined) return asking;
  return { ...asking, sites: [...new Set([...known, seenAt])].slice(0, MAX_SITES) };
}
