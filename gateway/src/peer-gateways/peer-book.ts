import { MAX_GATEWAY_ADDRESSES, MAX_GATEWAY_URLS } from '@sitecast/shared/fleet';

/** Gateways that are remembered; those heard of longest ago make room. The origin counts as one. */
export const MAX_KNOWN_GATEWAYS = 64;

/** Where another gateway is said to be. Nobody vouches for it: who answers must show its id, and give what is signed. */
export interface KnownGateway {
  id: string;
  /** Undefined where nobody has said: found by multicast DNS. */
  site?: string | undefined;
  /** Multiaddresses in the fleet's network, each with the id at its end. */
  fleet: string[];
  /** Of its HTTP side; for gateways of the same site. */
  urls: string[];
}

/** What lasts over a restart. */
export interface PeerBookStorage {
  load(): Promise<KnownGateway[]>;
  save(gateways: readonly KnownGateway[]): Promise<void>;
}

/** The other gateways that this one has heard of: from the origin, by multicast DNS, and before its last restart. */
export class PeerBook {
  readonly #memory: PeerBookStorage;
  readonly #gateways = new Map<string, KnownGateway>();
  readonly #listeners: (() => void)[] = [];

  private constructor(memory: PeerBookStorage) {
    this.#memory = memory;
  }

  static async open(memory: PeerBookStorage): Promise<PeerBook> {
    const book = new PeerBook(memory);
    for (const gateway of await memory.load()) book.#put(gateway);
    return book;
  }

  /** Those heard of last come last. */
  get all(): KnownGateway[] {
    return [...this.#gateways.values()];
  }

  has(id: string): boolean {
    return this.#gateways.has(id);
  }

  /** Calls whenever something new was learned. */
  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Takes what the origin says, or multicast DNS; what isn't said of a gateway stays as it was. */
  async learn(gateways: readonly (Pick<KnownGateway, 'id'> & Partial<KnownGateway>)[]): Promise<void> {
    const before = this.#text();
    for (const gateway of gateways) {
      const known = this.#gateways.get(gateway.id);
      this.#put({ fleet: [], urls: [], ...known, ...gateway });
    }
    if (this.#text() === before) return;
    for (const listener of this.#listeners) listener();
    await this.#memory.save(this.all);
  }

  /** The same for the same gateways, whoever was heard of last. */
  #text(): string {
    return JSON.stringify(this.all.sort((one, other) => (one.id < other.id ? -1 : 1)));
  }

  #put({ id, site, fleet, urls }: KnownGateway): void {
    this.#gateways.delete(id);
    this.#gateways.set(id, {
      id,
      ...(site === undefined ? {} : { site }),
      fleet: fleet.slice(0, MAX_GATEWAY_ADDRESSES),
      urls: urls.slice(0, MAX_GATEWAY_URLS),
    });
    const [oldest] = this.#gateways.keys();
    if (this.#gateways.size > MAX_KNOWN_GATEWAYS && oldest !== undefined) this.#gateways.delete(oldest);
  }
}
