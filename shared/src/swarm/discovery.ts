import { lruCache } from '../bounded/lru-cache.ts';
import { LanFinder } from './lan-finder.ts';

// Any machine on the LAN can send this. The worst messages: one with addresses of a third party, to which this machine then connects (one
// failing handshake, and there are few addresses for each peer); and thousands of invented peers. So discovered peers are only noted, up to
// a bound, and the caller decides whether to dial.

/** How many discovered peers are noted. The oldest are forgotten first. */
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

/** The part of libp2p's components that is used: how this node is announced. */
interface Components {
  addressManager: { getAddresses(): { toString(): string }[] };
}

/**
 * Multicast DNS without libp2p's own address book, which has no bound on merely announced peers.
 * @param serviceTag such as `_sitecast-site._udp.local`; undefined: it neither discovers nor announces
 * @param isHidden discovers others, but isn't announced itself
 */
export function discovery(
  serviceTag: string | undefined,
  { isHidden = false } = {},
): (components: Components) => Discovery {
  return ({ addressManager }) =>
    new Discovery(onPeer => {
      if (serviceTag === undefined) return undefined;
      const addresses = (): string[] => addressManager.getAddresses().map(address => address.toString());
      return new LanFinder({ serviceTag, askEveryMs: ASK_EVERY_MS, isHidden, addresses, onPeer });
    });
}

type OnPeer = (id: string, addresses: readonly string[]) => void;

export class Discovery {
  readonly #finder: Pick<LanFinder, 'start' | 'stop'> | undefined;
  readonly #found = lruCache<string, FoundPeer>({ max: MAX_FOUND_PEERS, ttl: FOUND_TTL_MS });
  /** Called for each peer whenever it is discovered. */
  onFound: (peer: FoundPeer) => void = () => {};

  constructor(finderFor: (onPeer: OnPeer) => Pick<LanFinder, 'start' | 'stop'> | undefined) {
    this.#finder = finderFor((id, addresses) => this.#note(id, addresses));
  }

  get found(): FoundPeer[] {
    return [...this.#found.values()];
  }

  start(): void {
    this.#finder?.start();
  }

  async stop(): Promise<void> {
    await this.#finder?.stop();
  }

  #note(id: string, all: readonly string[]): void {
    const suffix = `/p2p/${id}`;
    const addresses = all
      .filter(address => TCP_ADDRESS.test(address))
      .map(address => (address.includes('/p2p/') ? address : `${address}${suffix}`))
      .filter(address => address.endsWith(suffix))
      .slice(0, MAX_ADDRESSES);
    if (addresses.length === 0) return;
    const peer = { id, addresses };
    this.#found.set(peer.id, peer);
    this.onFound(peer);
  }
}
