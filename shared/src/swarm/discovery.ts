import type { PeerDiscovery, PeerInfo } from '@libp2p/interface';
import { mdns, type MulticastDNSComponents } from '@libp2p/mdns';
import { lruCache } from '../bounded/lru-cache.ts';

// Any machine on the LAN can send this. The worst messages: one that names addresses of a third party, so that this machine
// connects there (one handshake that fails, and there are few addresses for each peer); and thousands of invented peers. So
// discovered peers are only noted, up to a bound. The caller decides whether to dial.

/** Peers that were discovered lately. The oldest make room. */
export const MAX_FOUND_PEERS = 256;
const MAX_ADDRESSES = 8;
const FOUND_TTL_MS = 10 * 60_000;
const ASK_EVERY_MS = 20_000;
const TCP_ADDRESS = /^\/ip[46]\/[0-9a-f.:]{2,45}\/tcp\/\d{1,5}(?:\/p2p\/\w{1,64})?$/;

export interface FoundPeer {
  id: string;
  /** Multiaddresses, each with the id at its end. They aren't verified. */
  addresses: string[];
}

/**
 * Multicast DNS without libp2p's own address book, which has no bound on peers that are merely announced.
 * @param serviceTag such as `_sitecast-site._udp.local`; undefined: it neither discovers nor announces
 * @param isHidden discovers others, and isn't announced itself
 */
export function discovery(
  serviceTag: string | undefined,
  { isHidden = false } = {},
): (components: MulticastDNSComponents) => Discovery {
  return components =>
    new Discovery(
      serviceTag === undefined
        ? undefined
        : mdns({ serviceTag, interval: ASK_EVERY_MS, broadcast: !isHidden })(components),
    );
}

type Finder = PeerDiscovery & { start?: () => unknown; stop?: () => unknown };

export class Discovery {
  readonly #finder: Finder | undefined;
  readonly #found = lruCache<string, FoundPeer>({ max: MAX_FOUND_PEERS, ttl: FOUND_TTL_MS });
  /** Is called for each peer whenever it is discovered. */
  onFound: (peer: FoundPeer) => void = () => {};

  constructor(finder: Finder | undefined) {
    this.#finder = finder;
    finder?.addEventListener('peer', ({ detail }) => this.#note(detail));
  }

  get found(): FoundPeer[] {
    return [...this.#found.values()];
  }

  async start(): Promise<void> {
    await this.#finder?.start?.();
  }

  async stop(): Promise<void> {
    await this.#finder?.stop?.();
  }

  #note({ id, multiaddrs }: PeerInfo): void {
    const suffix = `/p2p/${id.toString()}`;
    const addresses = multiaddrs
      .map(address => address.toString())
      .filter(address => TCP_ADDRESS.test(address))
      .map(address => (address.includes('/p2p/') ? address : `${address}${suffix}`))
      .filter(address => address.endsWith(suffix))
      .slice(0, MAX_ADDRESSES);
    if (addresses.length === 0) return;
    const peer = { id: id.toString(), addresses };
    this.#found.set(peer.id, peer);
    this.onFound(peer);
  }
}
