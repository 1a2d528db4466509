import { MAX_GATEWAY_ADDRESSES, MAX_GATEWAY_URLS } from '@sitecast/shared/api';
import { lruCache } from '@sitecast/shared/bounded';

/**
 * With this many connections (the origin and three others), a gateway dials no more. On average, as many gateways dial it, which is enough
 * for a mesh (4 neighbours). Each connection costs pings.
 */
export const ENOUGH_CONNECTIONS = 4;

interface KnownPeers {
  own: string;
  /** Addresses from the settings: always kept connected. */
  named: readonly string[];
  /** Ids. */
  connected: readonly string[];
  /** The newest come last. */
  known: readonly KnownGateway[];
  /** Found by multicast DNS, in the order in which they are tried. Any host of the LAN can invent them. */
  found: readonly Pick<KnownGateway, 'id' | 'fleet'>[];
}

/** How many of the gateways found by multicast DNS are tried in one round. */
const MAX_FOUND_TRIED = 4;

/** The id at the end of a multiaddress. */
export function idOf(address: string): string {
  return address.slice(address.lastIndexOf('/') + 1);
}

/** @returns for each gateway that should be dialled now, its addresses in the order in which they are tried */
export function peersToDial({ own, named, connected, known, found }: KnownPeers): string[][] {
  const here = new Set([own, ...connected]);
  const wanted = named.filter(address => !here.has(idOf(address))).map(address => [address]);
  const places = Math.max(0, ENOUGH_CONNECTIONS - connected.length - wanted.length);
  const namedIds = new Set(named.map(idOf));
  const isWanted = ({ id, fleet }: Pick<KnownGateway, 'id' | 'fleet'>): boolean =>
    fleet.length > 0 && !here.has(id) && !namedIds.has(id);
  const others = known.filter(isWanted).reverse().slice(0, places);
  const seen = new Set(others.map(({ id }) => id));
  const tried = found
    .filter(one => isWanted(one) && !seen.has(one.id))
    .slice(0, Math.min(places, MAX_FOUND_TRIED));
  return [...wanted, ...[...others, ...tried].map(({ fleet }) => fleet)];
}

/** How many gateways are remembered. Those that were learned of longest ago are forgotten first. The origin counts as one. */
export const MAX_KNOWN_GATEWAYS = 64;

/** The claimed addresses of another gateway, unverified: the machine that answers must prove the id, and everything it sends is verified. */
export interface KnownGateway {
  id: string;
  /** Undefined where it is not known, for example in a file of an earlier version. */
  site?: string | undefined;
  /** Multiaddresses in the fleet's network, each with the id at its end. */
  fleet: string[];
  /** URLs of its HTTP side, for gateways of the same site. */
  urls: string[];
}

/** Where the book is stored over a restart. */
export interface PeerBookStorage {
  load(): Promise<KnownGateway[]>;
  save(gateways: readonly KnownGateway[]): Promise<void>;
}

/** The other gateways that this one knows: from the origin, and from before its last restart. */
export class PeerBook {
  readonly #memory: PeerBookStorage;
  /** The gateway that was heard of the longest ago is forgotten first. */
  readonly #gateways = lruCache<string, KnownGateway>({ max: MAX_KNOWN_GATEWAYS });
  readonly #listeners: (() => void)[] = [];

  private constructor(memory: PeerBookStorage) {
    this.#memory = memory;
  }

  static async open(memory: PeerBookStorage): Promise<PeerBook> {
    const book = new PeerBook(memory);
    for (const gateway of await memory.load()) book.#put(gateway);
    return book;
  }

  /** The newest come last. */
  get all(): KnownGateway[] {
    return [...this.#gateways.values()].reverse();
  }

  has(id: string): boolean {
    return this.#gateways.has(id);
  }

  /** Calls the listener whenever something new was learned. */
  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Adds what the origin says. Missing fields stay as they were. */
  async learn(gateways: readonly (Pick<KnownGateway, 'id'> & Partial<KnownGateway>)[]): Promise<void> {
    const before = this.#text();
    for (const gateway of gateways) {
      const known = this.#gateways.peek(gateway.id);
      this.#put({ fleet: [], urls: [], ...known, ...gateway });
    }
    if (this.#text() === before) return;
    for (const listener of this.#listeners) listener();
    await this.#memory.save(this.all);
  }

  /** A text that is the same for the same gateways in any order. */
  #text(): string {
    return JSON.stringify(this.all.sort((one, other) => (one.id < other.id ? -1 : 1)));
  }

  #put({ id, site, fleet, urls }: KnownGateway): void {
    this.#gateways.set(id, {
      id,
      ...(site === undefined ? {} : { site }),
      fleet: fleet.slice(0, MAX_GATEWAY_ADDRESSES),
      urls: urls.slice(0, MAX_GATEWAY_URLS),
    });
  }
}
