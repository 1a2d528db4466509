import type { ConnectionGater, MultiaddrConnection, PeerId, Transport, Upgrader } from '@libp2p/interface';
import { FairPool, type Lease, NamedHosts } from '../bounded/index.ts';
import { lruCache } from '../bounded/lru-cache.ts';

// Any machine on the LAN can connect, with any number of keys, from a few addresses. The worst are sockets that never send a byte, and
// connections of invented keys that never send a request. libp2p counts all connections together, and refuses every new one above a bound.
// So libp2p doesn't decide: each socket takes a place here before libp2p sees it.

/** How many sockets may be in their handshakes. Named hosts have as many other places. */
const MAX_HANDSHAKES = 128;
const MAX_HANDSHAKES_PER_ADDRESS = 64;
/** How many named ids are kept. Those named longest ago are forgotten first. */
const MAX_NAMED_IDS = 4096;
const NAMED_FOR_MS = 30 * 60_000;
/** How many connections a peer may have with this node. It has two when both dial at the same time. */
const MAX_CONNECTIONS_PER_MEMBER = 4;

export interface InboundPlaces {
  /** Connections of named or admitted peers. */
  members: number;
  /** Connections of all other peers that have proved a key. */
  strangers: number;
  strangersPerAddress: number;
}

/** Whether this node knows a peer that wasn't named to its gate. Called for each connection. */
export type KnowsPeer = (id: string) => boolean;

interface Entry {
  readonly maConn: MultiaddrConnection;
  isMember: boolean;
  lease: Lease;
}

const HOST = /^\/ip[46]\/([^/]+)\//;

/** The IP address in a multiaddress; undefined where there is none, or a name. */
export function hostOf(address: string): string | undefined {
  return HOST.exec(address)?.[1];
}

/**
 * Decides which peers may connect to a node. In each of its pools, the address with the most connections loses its oldest. Named and
 * admitted peers have places of their own.
 */
export class InboundGate {
  readonly #handshakes = new FairPool({ max: MAX_HANDSHAKES, maxPerOwner: MAX_HANDSHAKES_PER_ADDRESS });
  readonly #namedHandshakes = new FairPool({
    max: MAX_HANDSHAKES,
    maxPerOwner: MAX_HANDSHAKES_PER_ADDRESS,
  });
  readonly #members: FairPool;
  readonly #strangers: FairPool;
  readonly #hosts = new NamedHosts();
  readonly #named = lruCache<string, true>({ max: MAX_NAMED_IDS, ttl: NAMED_FOR_MS });
  readonly #entries = new Map<string, Set<Entry>>();
  readonly #isKnown: KnowsPeer;
  /** A connection whose handshake couldn't be read: with another fleet's key, or from something else. Any machine that reaches the port can cause it. */
  onUnreadable: (host: string | undefined) => void = () => {};

  /** @param isKnown recognizes known peers besides those that were named */
  constructor({ members, strangers, strangersPerAddress }: InboundPlaces, isKnown: KnowsPeer = () => false) {
    this.#isKnown = isKnown;
    this.#members = new FairPool({
      max: members,
      maxPerOwner: MAX_CONNECTIONS_PER_MEMBER,
      sparesEquals: true,
    });
    this.#strangers = new FairPool({ max: strangers, maxPerOwner: strangersPerAddress });
  }

  /** How many connections were ended to make room, or because there was none. */
  get dropped(): number {
    const pools = [this.#handshakes, this.#namedHandshakes, this.#members, this.#strangers];
    const takenBack = pools.reduce((sum, { counts }) => sum + counts.takenBack, 0);
    return takenBack + this.#handshakes.counts.refused + this.#strangers.counts.refused;
  }

  /** Called when a trusted source has said that this peer belongs to the network, with its addresses. */
  name(id: string, addresses: readonly string[]): void {
    this.#named.set(id, true);
    for (const address of addresses) {
      const host = hostOf(address);
      if (host !== undefined) this.#hosts.name(host);
    }
    this.admit(id);
  }

  isNamed(id: string): boolean {
    return this.#named.has(id) || this.#isKnown(id);
  }

  /** To whom a peer's connections are counted: to the peer itself if it was named, else to its address. */
  ownerOf(id: string, address: string): string {
    return this.isNamed(id) ? id : this.#hosts.ownerOf(hostOf(address));
  }

  /** Called when a peer has proved that it belongs to the network. Its connections no longer count as a stranger's. */
  admit(id: string): void {
    for (const entry of this.#entries.get(id) ?? []) {
      if (entry.isMember) continue;
      const place = this.#members.lease(id, 1, () => end(entry.maConn));
      if (!place) return;
      entry.lease.release();
      entry.lease = place;
      entry.isMember = true;
    }
  }

  /** Called by libp2p when a handshake is done and the peer's key is proved. */
  get gater(): ConnectionGater {
    return { denyInboundUpgradedConnection: (peer, maConn) => !this.#enter(peer, maConn) };
  }

  /** Wraps a transport, so that its listeners call this gate before libp2p sees a socket. */
  guard<Components>(transport: (components: Components) => Transport): (components: Components) => Transport {
    return components => {
      const guarded = transport(components);
      const createListener = guarded.createListener.bind(guarded);
      guarded.createListener = options =>
        createListener({ ...options, upgrader: this.#guarded(options.upgrader) });
      return guarded;
    };
  }

  #guarded(upgrader: Upgrader): Upgrader {
    const guarded: Upgrader = Object.create(upgrader);
    const upgradeInbound: Upgrader['upgradeInbound'] = async (maConn, options) => {
      const lease = this.#handshake(maConn);
      if (!lease) throw new Error('no room for another handshake');
      try {
        await upgrader.upgradeInbound(maConn, options);
      } catch (error) {
        if (error instanceof Error && error.name === 'EncryptionFailedError')
          this.onUnreadable(hostOf(maConn.remoteAddr.toString()));
        throw error;
      } finally {
        lease.release();
      }
    };
    guarded.upgradeInbound = upgradeInbound;
    return guarded;
  }

  #handshake(maConn: MultiaddrConnection): Lease | undefined {
    const host = hostOf(maConn.remoteAddr.toString());
    const owner = this.#hosts.ownerOf(host);
    const takeBack = (): void => end(maConn);
    const named = this.#hosts.has(host) ? this.#namedHandshakes.lease(owner, 1, takeBack) : undefined;
    return named ?? this.#handshakes.lease(owner, 1, takeBack);
  }

  #enter(peer: PeerId, maConn: MultiaddrConnection): boolean {
    const id = peer.toString();
    const takeBack = (): void => end(maConn);
    const place = this.isNamed(id) ? this.#members.lease(id, 1, takeBack) : undefined;
    const owner = this.#hosts.ownerOf(hostOf(maConn.remoteAddr.toString()));
    const lease = place ?? this.#strangers.lease(owner, 1, takeBack);
    if (!lease) return false;
    const entry: Entry = { maConn, isMember: place !== undefined, lease };
    const ofPeer = this.#entries.get(id) ?? new Set<Entry>();
    this.#entries.set(id, ofPeer.add(entry));
    const leave = (): void => {
      entry.lease.release();
      ofPeer.delete(entry);
      if (ofPeer.size === 0 && this.#entries.get(id) === ofPeer) this.#entries.delete(id);
    };
    if (maConn.status === 'open') maConn.addEventListener('close', leave, { once: true });
    else leave();
    return true;
  }
}

function end(maConn: MultiaddrConnection): void {
  maConn.abort(new Error('its place was needed for others'));
}
