import { type GatewayAddresses, type KnownGateways, MAX_NAMED_GATEWAYS } from '@sitecast/shared/api';
import { lruCache, type LruCache } from '@sitecast/shared/bounded';
import type { Member } from './member.ts';
import type { Registry } from './registry.ts';

const MAX_GATEWAYS_ON_BOARD = 20_000;
/** A gateway announces its addresses every ten minutes. After this time without an announcement it is no longer named. */
export const ADDRESSES_TTL_MS = 35 * 60_000;
/** Gateways of other sites in one answer. Each answer names others, so that the fleet's gossip reaches all of them. */
const MAX_ELSEWHERE = 8;

interface Place {
  site: string;
  addresses: GatewayAddresses;
  saidMs: number;
}

/** The addresses that gateways announce, for other gateways: in memory, and unchecked. */
export class GatewayBoard {
  readonly #registry: Pick<Registry, 'activeMember'>;
  /** By id. The gateway that announced itself the longest ago is forgotten first. */
  readonly #places: LruCache<string, Place>;
  readonly #bySite = new Map<string, Set<string>>();
  readonly #ownAddresses: () => string[];

  /** @param ownAddresses the origin's own addresses in the fleet's network */
  constructor(
    registry: Pick<Registry, 'activeMember'>,
    ownAddresses: () => string[],
    maxGateways = MAX_GATEWAYS_ON_BOARD,
  ) {
    this.#registry = registry;
    this.#ownAddresses = ownAddresses;
    this.#places = lruCache({ max: maxGateways, dispose: ({ site }, id) => this.#removeFromSite(site, id) });
  }

  get size(): number {
    return this.#places.size;
  }

  put({ id, site }: Member, addresses: GatewayAddresses, nowMs: number): void {
    this.#places.set(id, { site, addresses, saidMs: nowMs });
    const here = this.#bySite.get(site) ?? new Set();
    this.#bySite.set(site, here.add(id));
  }

  /** First the other gateways of the gateway's site, then a random choice of the rest. */
  knownTo({ id, site }: Member, nowMs: number): KnownGateways {
    const gateways: KnownGateways['gateways'] = [];
    for (const other of this.#bySite.get(site) ?? []) {
      if (gateways.length >= MAX_NAMED_GATEWAYS - MAX_ELSEWHERE) break;
      const named = other === id ? undefined : this.#named(other, nowMs);
      if (named && named.site === site) gateways.push(named);
    }
    const limit = gateways.length + MAX_ELSEWHERE;
    const ids = [...this.#places.keys()];
    const begin = Math.floor(Math.random() * ids.length);
    for (let step = 0; step < ids.length && gateways.length < limit; step += 1) {
      const named = this.#named(ids[(begin + step) % ids.length] ?? '', nowMs);
      // Addresses within a site's LAN stay in that site.
      if (named && named.site !== site && named.fleet.length > 0) gateways.push({ ...named, urls: [] });
    }
    return { origin: this.#ownAddresses(), gateways };
  }

  #named(id: string, nowMs: number): KnownGateways['gateways'][number] | undefined {
    // `peek` doesn't count as a use: a gateway isn't remembered longer because others ask for it.
    const place = this.#places.peek(id);
    const member = this.#registry.activeMember(id);
    if (!place || member?.kind !== 'gateway' || Math.abs(nowMs - place.saidMs) > ADDRESSES_TTL_MS)
      return undefined;
    return { id, site: member.site, ...place.addresses };
  }

  #removeFromSite(site: string, id: string): void {
    const here = this.#bySite.get(site);
    if (here?.delete(id) && here.size === 0) this.#bySite.delete(site);
  }
}
