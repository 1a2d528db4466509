import './promise-polyfill.ts';
import { gossipsub } from '@chainsafe/libp2p-gossipsub';
import { identify } from '@libp2p/identify';
import type { Libp2p } from '@libp2p/interface';
import { noise } from '@libp2p/noise';
import { peerIdFromString } from '@libp2p/peer-id';
import { preSharedKey } from '@libp2p/pnet';
import { tcp } from '@libp2p/tcp';
import { multiaddr } from '@multiformats/multiaddr';
import { createLibp2p } from 'libp2p';
import { SitecastError } from '../errors.ts';
import type { FleetKey } from '../fleet/index.ts';
import type { Identity } from '../identity/index.ts';
import { type Discovery, discovery, type FoundPeer } from './discovery.ts';
import { swarmKeyFile } from './fleet-key.ts';
import { FleetGossip, GOSSIP_TOPIC, MESSAGE_IDS } from './gossip/fleet-gossip.ts';
import { InboundGate, type KnowsPeer } from './inbound-gate.ts';
import { joinedWrites } from './joined-writes.ts';
import { type Listening, listenWhenFree, whyNotListening } from './listen-when-free.ts';
import { guardedYamux, type Pings } from './guarded-yamux.ts';
import {
  connectionLimits,
  DEFAULT_MAX_CONNECTIONS,
  FLEET_KEY_TIMEOUT_MS,
  FLEET_PING_MS,
  gossipLimits,
  IDENTIFY_LIMITS,
  PEER_STORE_LIMITS,
  NO_MONITOR,
  PING_TIMEOUT_MS,
  SITE_PING_MS,
  tcpLimits,
} from './options.ts';
import { privateKeyOf } from './private-key.ts';

const FLEET_SERVICE = '_sitecast-fleet._udp.local';
const SITE_SERVICE = '_sitecast-site._udp.local';

export interface NodeOptions {
  readonly identity: Identity;
  /** Multiaddresses to listen on, such as `/ip4/0.0.0.0/tcp/7402`. Without any, the node only dials. */
  readonly listen: readonly string[];
  /** Multiaddresses to announce, if others can't reach those that it listens on. */
  readonly announce?: readonly string[];
  /** Discovers others by multicast DNS, and is discovered. */
  readonly isDiscovering?: boolean;
  /** Discovers others by multicast DNS, and isn't discovered itself. */
  readonly isHidden?: boolean;
  /** Bound on the connections of named or admitted peers. Strangers have other places (`inbound-gate.ts`). */
  readonly maxConnections?: number;
  /** How often dialled connections are pinged, and how long an answer may take. */
  readonly pings?: Pings;
}

export interface FleetNodeOptions extends NodeOptions {
  /** A machine without this key can't join. */
  readonly fleetKey: FleetKey;
  /** Recognizes peers that have places of their own, besides those that the gate is told of. */
  readonly isKnown?: KnowsPeer;
  /** A machine has connected that doesn't speak with the fleet's key. Any machine that reaches the port can cause it, as often as it likes. */
  readonly onForeignKey?: (trouble: SitecastError) => void;
}

/** One of the two networks from the view of one machine: the part of a libp2p node that Sitecast needs. */
export class SwarmNode {
  readonly id: string;
  readonly libp2p: Libp2p;
  /** Decides which peers may connect. It isn't asked about peers that this node dials. */
  readonly gate: InboundGate;
  readonly #discovery: Discovery;
  readonly #listening: Listening | undefined;

  constructor(libp2p: Libp2p, gate: InboundGate, found: Discovery, listening?: Listening) {
    this.libp2p = libp2p;
    this.#listening = listening;
    this.gate = gate;
    this.id = libp2p.peerId.toString();
    this.#discovery = found;
  }

  /** Multiaddresses at which others reach it, each with its id at the end. */
  get addresses(): string[] {
    return this.libp2p.getMultiaddrs().map(address => address.toString());
  }

  /** Ids of peers with an open connection. */
  get connected(): string[] {
    return this.libp2p.getPeers().map(peer => peer.toString());
  }

  /** Peers that multicast DNS has discovered lately, unverified. */
  get found(): FoundPeer[] {
    return this.#discovery.found;
  }

  onFound(listener: (peer: FoundPeer) => void): void {
    this.#discovery.onFound = listener;
  }

  /**
   * Connects, if it isn't connected already.
   * @param address a multiaddress with an id at its end; a peer with another id is refused
   * @returns the id
   * @throws SITECAST_PEER_ADDRESS, SITECAST_PEER_UNREACHABLE
   */
  async dial(address: string, signal?: AbortSignal): Promise<string> {
    const parsed = parseAddress(address);
    try {
      const connection = await this.libp2p.dial(parsed, signal ? { signal } : {});
      return connection.remotePeer.toString();
    } catch (cause) {
      signal?.throwIfAborted();
      throw unreachable(address, cause, this.hasFleetKey);
    }
  }

  /** Whether only members with the fleet's key can connect. */
  protected get hasFleetKey(): boolean {
    return false;
  }

  /** Whether a connection with a peer is open. */
  isConnected(id: string): boolean {
    return this.libp2p.getConnections(peerIdFromString(id)).length > 0;
  }

  /**
   * Listens on one more place, as soon as it is free.
   * @param address `/ip4/ADDRESS/tcp/PORT`
   * @returns false where the signal came before
   */
  async listenWhenFree(address: string, signal: AbortSignal): Promise<boolean> {
    return this.#listening === undefined ? false : listenWhenFree(this.#listening, address, signal);
  }

  /** Ends all connections with a peer. */
  async hangUp(id: string): Promise<void> {
    await this.libp2p.hangUp(peerIdFromString(id));
  }

  async close(): Promise<void> {
    await this.libp2p.stop();
  }
}

/** A gateway's or the origin's node in the fleet's network. */
export class FleetNode extends SwarmNode {
  readonly gossip: FleetGossip;
  protected override get hasFleetKey(): boolean {
    return true;
  }

  constructor(
    libp2p: Libp2p,
    gate: InboundGate,
    { found, gossip }: { found: Discovery; gossip: FleetGossip },
  ) {
    super(libp2p, gate, found);
    this.gossip = gossip;
  }
}

/**
 * For origin and gateways: closed by the fleet's key, with gossip.
 * @throws SITECAST_PEER_LISTEN (failed)
 */
export async function createFleetNode(options: FleetNodeOptions): Promise<FleetNode> {
  const maxConnections = options.maxConnections ?? DEFAULT_MAX_CONNECTIONS;
  // On this network, strangers have the fleet's key, too.
  const gate = new InboundGate(
    { members: maxConnections, strangers: maxConnections, strangersPerAddress: maxConnections },
    options.isKnown,
  );
  gate.onUnreadable = host => options.onForeignKey?.(foreignKey(host));
  const creating = createLibp2p({
    ...nodeSettings(options, { gate, maxInbound: 2 * maxConnections, pingMs: FLEET_PING_MS }),
    connectionProtector: preSharedKey({
      psk: swarmKeyFile(options.fleetKey),
      timeout: FLEET_KEY_TIMEOUT_MS,
    }),
    services: {
      identify: identify(IDENTIFY_LIMITS),
      pubsub: gossipsub({ ...gossipLimits(GOSSIP_TOPIC), ...MESSAGE_IDS }),
      discovery: discovery(options.isDiscovering ? FLEET_SERVICE : undefined),
    },
  });
  const libp2p = await creating.catch((error: unknown) => {
    throw cannotListen(error, options.listen);
  });
  const { pubsub, discovery: found } = libp2p.services;
  return new FleetNode(libp2p, gate, { found, gossip: new FleetGossip(pubsub) });
}

/**
 * For devices and gateways of one site: open to every machine on the LAN. The chunk exchange decides which peer gets what.
 * @throws the reason why it can't listen
 */
export async function createSiteNode(options: NodeOptions): Promise<SwarmNode> {
  const members = options.maxConnections ?? DEFAULT_MAX_CONNECTIONS;
  const strangers = Math.ceil(members / 2);
  const gate = new InboundGate({ members, strangers, strangersPerAddress: Math.ceil(strangers / 2) });
  const libp2p = await createLibp2p({
    ...nodeSettings(options, { gate, maxInbound: members + strangers, pingMs: SITE_PING_MS }),
    // No identify protocol, which would cost each connection two streams and two signatures. It isn't needed: a peer is known by its key,
    // its address comes from the gateway or multicast DNS, and both sides speak one protocol.
    services: {
      discovery: discovery(options.isDiscovering ? SITE_SERVICE : undefined, {
        isHidden: options.isHidden ?? false,
      }),
      listening: ({ transportManager }: { transportManager: Listening }): Listening => ({
        listen: addresses => transportManager.listen(addresses),
      }),
    },
  });
  return new SwarmNode(libp2p, gate, libp2p.services.discovery, libp2p.services.listening);
}

function nodeSettings(
  { identity, listen, announce, pings }: NodeOptions,
  { gate, maxInbound, pingMs }: { gate: InboundGate; maxInbound: number; pingMs: number },
) {
  return {
    privateKey: privateKeyOf(identity),
    // Strangers should learn nothing that helps them to choose a target.
    nodeInfo: { name: 'sitecast', version: '1', userAgent: 'sitecast' },
    addresses: { listen: [...listen], announce: [...(announce ?? [])], maxObservedAddresses: 4 },
    connectionGater: gate.gater,
    connectionManager: connectionLimits(maxInbound),
    connectionMonitor: NO_MONITOR,
    peerStore: PEER_STORE_LIMITS,
    transports: [gate.guard(tcp(tcpLimits(maxInbound, pings?.everyMs ?? pingMs)))],
    connectionEncrypters: [joinedWrites(noise())],
    streamMuxers: [guardedYamux(pings ?? { everyMs: pingMs, timeoutMs: PING_TIMEOUT_MS })],
  };
}

/**
 * Why a peer can't be reached, as far as that is known. With another fleet's key the connection succeeds, but the handshake that follows
 * looks like noise to both sides.
 */
function unreachable(address: string, cause: unknown, hasFleetKey: boolean): SitecastError {
  const { name, message } = cause instanceof Error ? cause : new Error(String(cause));
  const isHandshake = name === 'EncryptionFailedError';
  const isOther = isHandshake && message.includes('identity key');
  // The noise can also look like the beginning of a long message, and the node waits for the rest.
  const isUnclear = isHandshake || name === 'TimeoutError' || message.includes('ECONNRESET');
  const isForeign = isHandshake && !isOther && hasFleetKey;
  const [what, hint] = isOther
    ? [`${address}: who answers there has another id`, 'Take the address from its log.']
    : isUnclear && hasFleetKey
      ? [
          isForeign
            ? `${address} answers, and speaks with another fleet key, or isn't of the fleet's network`
            : `${address} could not be reached, or speaks with another fleet key`,
          SAME_KEY_HINT,
        ]
      : [`${address} could not be reached`, undefined];
  return new SitecastError('unreachable', isForeign ? FOREIGN_KEY : 'SITECAST_PEER_UNREACHABLE', what, {
    data: { address },
    cause,
    ...(hint !== undefined && { hint }),
  });
}

/** A machine speaks with another fleet's key, as far as can be told: its handshake is noise. */
export const FOREIGN_KEY = 'SITECAST_FLEET_KEY_DIFFERS';
const SAME_KEY_HINT = "Compare the files of --fleet-key-file: one key is everybody's.";

function foreignKey(host: string | undefined): SitecastError {
  return new SitecastError(
    'unreachable',
    FOREIGN_KEY,
    `${host ?? 'somebody'} has connected, and speaks with another fleet key, or isn't of the fleet's network`,
    { hint: `If that is a gateway: ${SAME_KEY_HINT}`, data: { host } },
  );
}

/** The error for an address of another machine, or one that is taken. @returns other errors unchanged */
function cannotListen(error: unknown, listen: readonly string[]): unknown {
  if (!(error instanceof Error) || error.name !== 'UnsupportedListenAddressesError') return error;
  return new SitecastError(
    'failed',
    'SITECAST_PEER_LISTEN',
    `the fleet's network can't be listened for on ${listen.join(' nor on ')}${whyNotListening(error)}`,
    { hint: 'Give an address of this machine and a free port with --gossip-listen.', cause: error },
  );
}

function parseAddress(address: string) {
  try {
    const parsed = multiaddr(address);
    if (parsed.getComponents().at(-1)?.name === 'p2p') return parsed;
  } catch {
    // Ignored: the error below says so.
  }
  throw new SitecastError('badInput', 'SITECAST_PEER_ADDRESS', `not the address of a peer: ${address}`, {
    hint: 'it looks like /ip4/192.0.2.1/tcp/7402/p2p/12D3KooW…',
    data: { address },
  });
}
