import type { PeerDiscovery, PeerInfo } from '@libp2p/interface';
import { mdns, type MulticastDNSComponents } from '@libp2p/mdns';
import { LRUCache } from 'lru-cache';

// Who can send this: anybody on the LAN. The worst messages: one that names addresses elsewhere, so that we connect to a
// third party (a connection, a handshake that fails, no more: and addresses per peer are few); and thousands of invented
// peers. So finding is only noted, at most so many, and dialling is up to whoever asked for it.

/** Peers that were found lately; the oldest make room. */
export const MAX_FOUND_PEERS = 256;
const MAX_ADDRESSES = 8;
const FOUND_TTL_MS = 10 * 60_000;
const ASK_EVERY_MS = 20_000;
const TCP_ADDRESS = /^\/ip[46]\/[0-9a-f.:]{2,45}\/tcp\/\d{1,5}(?:\/p2p\/\w{1,64})?$/;

export interface FoundPeer {
  id: string;
  /** Multiaddresses, each with the id at its end. Nobody vouches for them. */
  addresses: string[];
}

/**
 * Multicast DNS without libp2p's own address book, which has no bound on peers that are merely announced.
 * @param serviceTag such as `_sitecast-site._udp.local`; undefined: nothing is looked for, or told
 * @param isHidden looks for others, and isn't found itself
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
  readonly #found = new LRUCache<string, FoundPeer>({ max: MAX_FOUND_PEERS, ttl: FOUND_TTL_MS });
  /** Called for each one that is found, again whenever it is. */
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
