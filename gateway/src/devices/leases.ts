import { SitecastError } from '@sitecast/shared/errors';
import { LEASE_MS, MAX_LEASES_HELD_MS } from '@sitecast/shared/api';
import type { Assignment, Rollout, RolloutsFile } from '@sitecast/shared/fleet';
import { type KeyValueStore, startingWith } from '@sitecast/shared/key-value';
import pLimit from 'p-limit';
import { z } from 'zod';
import type { SiteDevices } from './site-devices.ts';

/** The time until which no device gets a lease, because records of held leases may have been lost. */
export const LEASES_CLOSED_KEY = 'closedUntilMs';
/** When a refused device should ask again, in ms. */
const RETRY_AFTER_MS = 5000;

/** A device that held a lease for the maximum time gets none for this long, so that it can't block its site. */
const COOL_DOWN_MS = 2 * 3_600_000;

const leaseSchema = z.object({
  rollout: z.string(),
  untilMs: z.number(),
  /** When this device first took it, without a break since. Records of earlier versions lack it. */
  sinceMs: z.number().exactOptional(),
});
type Lease = z.infer<typeof leaseSchema>;

export type LeaseAction = 'take' | 'renew' | 'return';
export interface LeaseAnswer {
  granted: boolean;
  untilMs?: number;
  retryAfterMs?: number;
  /** If not granted: the devices that hold leases, at most `MAX_NAMED_HOLDERS`. */
  heldBy?: Holder[];
}

/** A device that may be down now. */
export interface Holder {
  id: string;
  /** Undefined where the device has no name, or its assignment is not known. */
  name?: string | undefined;
  untilMs: number;
}

/** A lease that is held now. */
export interface HeldLease extends Holder {
  product: string;
  rollout: string;
  /** Since when, without a break; undefined where an earlier version wrote the record. */
  sinceMs: number | undefined;
}

const MAX_NAMED_HOLDERS = 4;

interface LeasesDeps {
  records: KeyValueStore;
  devices: SiteDevices;
  /** The site that this gateway is assigned to; undefined before it is. */
  site: () => Promise<string | undefined>;
  assignmentOf: (id: string) => Promise<Assignment | undefined>;
  rolloutsOf: (product: string) => RolloutsFile | undefined;
  /** By the signed list of revocations, which arrives earlier than the changed assignment. */
  isRevoked: (id: string) => boolean;
  now: () => number;
}

/**
 * Leases are permissions to be down, so that a site never updates all its devices of a product at once. The rollout's `maxDown` is a share
 * of the devices whose assignment this gateway knows; at least one. Leases are stored on disk, so after a restart none is granted twice.
 * (At a site with several gateways, each counts by itself.)
 */
export class Leases {
  readonly #deps: LeasesDeps;
  readonly #turn = pLimit(1);

  constructor(deps: LeasesDeps) {
    this.#deps = deps;
  }

  /**
   * @param id the device that signed the request
   * @throws SITECAST_NO_ASSIGNMENT, SITECAST_OTHER_SITE, SITECAST_REVOKED (forbidden), SITECAST_ROLLOUT_UNKNOWN (notFound),
   *   SITECAST_NOT_ENROLLED (unreachable), SITECAST_NO_SPACE
   */
  async handle(id: string, rolloutId: string, action: LeaseAction): Promise<LeaseAnswer> {
    const product = await this.#productOf(id);
    return this.#turn(async () => {
      const key = `${product}:${id}`;
      if (action === 'return') {
        await this.#giveBack(product, id);
        return { granted: false };
      }
      const rollout = this.#rolloutOf(product, rolloutId);
      const nowMs = this.#deps.now();
      const closedMs = await this.#closedForMs(nowMs);
      if (closedMs > 0) return { granted: false, retryAfterMs: closedMs };
      const leases = await this.#leases(product);
      const own = leases.get(id);
      const sinceMs = own?.sinceMs ?? nowMs;
      if (own && nowMs - sinceMs >= MAX_LEASES_HELD_MS)
        return { granted: false, retryAfterMs: sinceMs + MAX_LEASES_HELD_MS + COOL_DOWN_MS - nowMs };
      const others = await this.#holders(leases, id);
      const isHolding = own !== undefined && own.untilMs > nowMs;
      if (!isHolding && others.length >= this.#maxDown(product, rollout))
        return {
          granted: false,
          retryAfterMs: RETRY_AFTER_MS,
          heldBy: others
            .slice(0, MAX_NAMED_HOLDERS)
            .map(holder => ({ ...holder, name: this.#deps.devices.nameOf(holder.id) })),
        };
      const untilMs = Math.min(nowMs + LEASE_MS, sinceMs + MAX_LEASES_HELD_MS);
      const lease: Lease = { rollout: rollout.id, untilMs, sinceMs };
      await this.#deps.records.commit([{ key, value: lease }]);
      return { granted: true, untilMs };
    });
  }

  /** Each held lease of a device that still belongs to this site. */
  async held(): Promise<HeldLease[]> {
    const nowMs = this.#deps.now();
    const found: HeldLease[] = [];
    for await (const [key, value] of this.#deps.records.entries(startingWith(''))) {
      const lease = leaseSchema.safeParse(value);
      if (!lease.success || lease.data.untilMs <= nowMs) continue;
      const at = key.lastIndexOf(':');
      const id = key.slice(at + 1);
      const { untilMs, rollout, sinceMs } = lease.data;
      if (await this.#isOurs(id)) found.push({ id, product: key.slice(0, at), rollout, untilMs, sinceMs });
    }
    return found;
  }

  /** The other devices that may be down now. */
  async #holders(leases: Map<string, Lease>, besides: string): Promise<Holder[]> {
    const nowMs = this.#deps.now();
    const found: Holder[] = [];
    for (const [id, { untilMs }] of leases)
      if (id !== besides && untilMs > nowMs && (await this.#isOurs(id))) found.push({ id, untilMs });
    return found;
  }

  /** Whether a device belongs to this site. One that was revoked or moved doesn't count. */
  async #isOurs(id: string): Promise<boolean> {
    const { site, assignmentOf, isRevoked } = this.#deps;
    if (isRevoked(id)) return false;
    const [own, assignment] = await Promise.all([site(), assignmentOf(id)]);
    // A device whose assignment cannot be read now counts as down, so that no other one goes down as well.
    return assignment === undefined || (!assignment.revoked && assignment.site === own);
  }

  async #closedForMs(nowMs: number): Promise<number> {
    const untilMs = await this.#deps.records.get(LEASES_CLOSED_KEY);
    const closedMs = typeof untilMs === 'number' ? untilMs - nowMs : 0;
    // A longer time is impossible unless the clock was set back.
    return closedMs > LEASE_MS ? 0 : closedMs;
  }

  /** Returns a lease. How long it was held is kept until the cool-down is over, so that returning it doesn't reset that time. */
  async #giveBack(product: string, id: string): Promise<void> {
    const own = (await this.#leases(product)).get(id);
    const key = `${product}:${id}`;
    const nowMs = this.#deps.now();
    const isLong = own?.sinceMs !== undefined && nowMs - own.sinceMs > LEASE_MS;
    await this.#deps.records.commit([
      own && isLong ? { key, value: { ...own, untilMs: nowMs } satisfies Lease } : { key, value: undefined },
    ]);
  }

  /** Leases by device: held ones, and ended ones that still count. */
  async #leases(product: string): Promise<Map<string, Lease>> {
    const { records, now } = this.#deps;
    const nowMs = now();
    const found = new Map<string, Lease>();
    const expired: string[] = [];
    for await (const [key, value] of records.entries(startingWith(`${product}:`))) {
      const lease = leaseSchema.safeParse(value);
      // A later end is impossible unless the clock was set back.
      const isKept =
        lease.success && lease.data.untilMs <= nowMs + LEASE_MS && !isForgotten(lease.data, nowMs);
      if (isKept) found.set(key.slice(product.length + 1), lease.data);
      else expired.push(key);
    }
    if (expired.length > 0)
      await records.commit(
        expired.map(key => ({ key, value: undefined })),
        { isDurable: false },
      );
    return found;
  }

  #maxDown(product: string, { maxDownBasisPoints }: Rollout): number {
    return Math.max(1, Math.floor((this.#deps.devices.countOf(product) * maxDownBasisPoints) / 10_000));
  }

  #rolloutOf(product: string, id: string): Rollout {
    const found = this.#deps.rolloutsOf(product)?.rollouts.find(rollout => rollout.id === id);
    if (found && found.state !== 'aborted') return found;
    throw new SitecastError(
      'notFound',
      'SITECAST_ROLLOUT_UNKNOWN',
      'there is no such rollout of that product',
      {
        data: { rollout: id, product },
      },
    );
  }

  async #productOf(id: string): Promise<string> {
    const { site, assignmentOf } = this.#deps;
    const [own, assignment] = await Promise.all([site(), assignmentOf(id)]);
    if (own === undefined)
      throw new SitecastError('unreachable', 'SITECAST_NOT_ENROLLED', 'this gateway is not enrolled yet');
    if (!assignment || assignment.kind !== 'device' || assignment.product === undefined)
      throw new SitecastError('forbidden', 'SITECAST_NO_ASSIGNMENT', 'no device is assigned under this id');
    if (assignment.revoked)
      throw new SitecastError('forbidden', 'SITECAST_REVOKED', 'this device was revoked');
    if (assignment.site !== own)
      throw new SitecastError('forbidden', 'SITECAST_OTHER_SITE', 'this device belongs to another site', {
        data: { site: assignment.site },
      });
    return assignment.product;
  }
}

function isForgotten({ untilMs, sinceMs }: Lease, nowMs: number): boolean {
  if (untilMs > nowMs) return false;
  // A break as long as a lease resets the time, but not for a device that used all its time.
  const isSpent = sinceMs !== undefined && untilMs - sinceMs >= MAX_LEASES_HELD_MS - LEASE_MS;
  return nowMs - untilMs >= (isSpent ? COOL_DOWN_MS : LEASE_MS);
}
