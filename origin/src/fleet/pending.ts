import { FairPool, type Lease } from '@sitecast/shared/bounded';
import type { MemberKind } from './member.ts';

/** Newcomers that wait: those that known gateways relay, and strangers that came directly. */
export const MAX_PENDING_RELAYED = 1000;
export const MAX_PENDING_DIRECT = 200;
/** How long a newcomer is remembered that has stopped asking. */
export const PENDING_TTL_MS = 24 * 3_600_000;

/** A newcomer that waits to be let in. */
export interface PendingMember {
  id: string;
  kind: MemberKind;
  product?: string;
  hardware?: string;
  /** Site of the gateway that relays, or the site that a gateway asks for. Where several sites have shown a device: the first of them. */
  site?: string;
  /** All sites that have shown a device, the first one first. Where there are several, an operator has to decide. */
  sites?: string[];
  via?: string;
  /** The name that the newcomer or its token asks for. */
  wish?: string;
  /** Id of a join token that would have let the newcomer in, if its name were free. */
  joinToken?: string;
  firstAskedMs: number;
  lastAskedMs: number;
}

/** Sites that are remembered of one device. */
const MAX_SITES = 8;

type Asking = Omit<PendingMember, 'firstAskedMs' | 'lastAskedMs'>;

interface Waiting {
  member: PendingMember;
  /** The gateway that relays it, or `STRANGERS`: its places are counted together. */
  owner: string;
  /** Its place. The pool takes it back where another owner needs room. */
  place: Lease | undefined;
}

/** All strangers are one owner: they can make up any id. */
const STRANGERS = '';

/**
 * The newcomers that wait. In memory: a newcomer asks again within a minute, and strangers must not be able to fill the disk. Strangers
 * can't displace newcomers that a gateway relays, and no gateway can displace those of another: each kind has its own bound, beyond which
 * the gateway with the most newcomers loses the one that has been silent the longest.
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
    // The pool never refuses a place: it can take all of them back.
    if (!waiting.place) this.#byId.delete(id);
  }

  /** Of several gateways that relay one newcomer, the one with fewer waiting: a flood through another gateway doesn't displace the newcomer. */
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
 * A direct request doesn't replace what a gateway has relayed, nor does a later gateway's request replace an earlier one's: a signed request
 * of a device that was seen once can be replayed at another site. What a gateway asks for itself counts: it has signed that.
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
