import { lruCache } from '@sitecast/shared/bounded';
import { SitecastError } from '@sitecast/shared/errors';
import { tellableAddresses } from '@sitecast/shared/api';
import { requireFleetKey } from '@sitecast/shared/fleet';
import type { Identity } from '@sitecast/shared/identity';
import type { Connections } from '@sitecast/shared/outbound';
import { claimedVersion, shuffled } from '@sitecast/shared/upstream';
import type { AnnouncementHandler, FleetNode, judge as judgeAnnouncements } from '@sitecast/shared/swarm';
import pLimit from 'p-limit';
import { sleep, withJitter } from '@sitecast/shared/async';
import { idOf, type PeerBook, peersToDial } from '../peer-gateways/peer-book.ts';
import { createGatewayServer } from '../http/server.ts';
import type { FleetNeighbours } from '../mirror/sources.ts';
import type { FleetNetwork, Neighbour } from '../peer-gateways/announcements.ts';
import type { Log } from '@sitecast/shared/log';
import type { GatewaySettings } from '../settings.ts';
import type { Troubles } from '../troubles.ts';

/** How often it checks whether there are enough connections. */
const DIAL_EVERY_MS = 30_000;
const MAX_KEPT_NEIGHBOURS = 64;

// Type of the module that is loaded only if a gateway joins the network.
type Judge = typeof judgeAnnouncements;
interface StreamConnections {
  connectionsToPeer: (node: FleetNode, id: string) => Connections;
  urlOfPeer: (id: string) => string;
}

interface FleetNetworkOptions {
  settings: Pick<
    GatewaySettings,
    'gossipListen' | 'gossipPeer' | 'gossipAnnounce' | 'mdns' | 'fleetKeyFile' | 'fleetUpload'
  >;
  identity: Identity;
  /** Gateways to dial besides those of the settings. Those that multicast DNS discovers are added. */
  book: PeerBook;
  troubles: Pick<Troubles, 'note'>;
  /** Speaks to a neighbour. */
  upstream: (url: string, connections: Connections) => Neighbour;
  now: () => number;
  log: Log;
  signal: AbortSignal;
}

/**
 * Joins the fleet's network, if the settings say so. libp2p is not loaded otherwise.
 * @throws SITECAST_FLEET_KEY_MISSING, SITECAST_FLEET_KEY_INVALID, SITECAST_KEY_PERMISSIONS, and whatever keeps it from listening
 */
export async function joinFleetNetwork(options: FleetNetworkOptions): Promise<FleetNetwork | undefined> {
  const { settings, identity, book, upstream, troubles, now, log, signal } = options;
  const { gossipListen = [], gossipPeer = [], gossipAnnounce = [], mdns = false, fleetKeyFile } = settings;
  if (gossipListen.length === 0 && gossipPeer.length === 0) {
    warnOfIdle(settings, log);
    return undefined;
  }
  if (gossipPeer.some(address => idOf(address) === identity.id))
    log.info({}, '--gossip-peer names this gateway itself, which is passed over');
  const fleetKey = await requireFleetKey(fleetKeyFile);
  const swarm = await import('@sitecast/shared/swarm');
  const { announcementOf, createFleetNode, judge, peerOf, serveHttpStreams } = swarm;
  // Gateways from the settings and from the origin have connections reserved, however many others connect.
  const named = new Set(gossipPeer.map(idOf));
  const node = await createFleetNode({
    identity,
    listen: gossipListen,
    announce: gossipAnnounce,
    isDiscovering: mdns,
    fleetKey,
    isKnown: id => named.has(id) || book.has(id),
    // Any machine that reaches the port can cause it: the log holds repeats back, there is one such trouble at most, and it doesn't hide
    // that of a gateway which the settings name.
    onForeignKey: trouble => {
      const { code, message: detail, hint } = trouble;
      troubles.note(trouble, { yields: true });
      log.warn({ code, detail, hint }, "a machine that connects doesn't speak with this fleet's key");
    },
  });
  log.info({ addresses: node.addresses }, "joined the fleet's network");
  nameKnown(node, gossipPeer, book);
  const dialling = keepDialled(node, gossipPeer, { book, troubles, log, signal });
  return {
    addresses: () => tellableAddresses(node.addresses),
    get connections() {
      return node.connected.length;
    },
    get dropped() {
      return node.gate.dropped;
    },
    neighbours: neighboursOf(node, swarm, upstream),
    listen: listener => node.gossip.onAnnouncement(announcementHandler(listener, { judge, now, log })),
    serve: async listener => {
      const server = createGatewayServer((request, response) => {
        const neighbour = peerOf(request.socket);
        if (neighbour !== undefined) listener(request, response, neighbour);
      });
      await serveHttpStreams(node, server);
    },
    announce: async ({ rootVersion, timestamp, files }) => {
      await node.gossip.announce(announcementOf(rootVersion, timestamp, files));
    },
    close: async () => {
      await node.close();
      await dialling;
    },
  };
}

/** Only a warning: the unit file of a site that is set up step by step must not keep the gateway from starting. */
function warnOfIdle({ gossipAnnounce, fleetKeyFile, fleetUpload }: Partial<GatewaySettings>, log: Log): void {
  const given = {
    '--gossip-announce': gossipAnnounce,
    '--fleet-key-file': fleetKeyFile,
    '--fleet-upload': fleetUpload,
  };
  const idle = Object.entries(given).flatMap(([name, value]) => (value === undefined ? [] : [name]));
  if (idle.length === 0) return;
  const hint = 'Join it with --gossip-listen or --gossip-peer.';
  log.warn({ hint }, `without effect: ${idle.join(', ')}: this gateway isn't in the fleet's network`);
}

/** Judges announcements of others, and reports those that bring something newer. */
function announcementHandler(
  { trusted, verify, onNewer }: Parameters<FleetNetwork['listen']>[0],
  { judge, now, log }: Pick<FleetNetworkOptions, 'now' | 'log'> & { judge: Judge },
): AnnouncementHandler {
  let claimsRoot = false;
  const onNewerRoot = (): void => {
    claimsRoot = true;
  };
  const verdictOn = judge({ trusted, now, verify, onNewerRoot });
  return (announcement, from) => {
    claimsRoot = false;
    const verdict = verdictOn(announcement);
    const { timestamp, files } = announcement;
    if (verdict === 'accept') {
      const all = new Map([...files, ['timestamp.json', timestamp] as const]);
      onNewer({ from, version: claimedVersion(timestamp), files: all });
    } else if (claimsRoot) onNewer({ from, version: undefined, files: new Map() });
    if (verdict === 'reject') log.warn({ peer: from }, 'a neighbour announced what is refused');
    return verdict;
  };
}

/** Members that this node is connected with, over the connections that gossip goes over. */
function neighboursOf(
  node: FleetNode,
  { connectionsToPeer, urlOfPeer }: StreamConnections,
  upstream: (url: string, connections: Connections) => Neighbour,
): FleetNeighbours<Neighbour> {
  const opened = lruCache<string, Neighbour>({ max: MAX_KEPT_NEIGHBOURS });
  return {
    ids: () =>
      node.gossip.neighbours
        .filter(({ score }) => score >= 0)
        .sort((one, other) => other.score - one.score)
        .map(({ id }) => id),
    source: id => {
      const neighbour = opened.get(id) ?? upstream(urlOfPeer(id), connectionsToPeer(node, id));
      opened.set(id, neighbour);
      return neighbour;
    },
  };
}

/** Tells the gate at which addresses the gateways from the settings and from the origin are. */
function nameKnown(node: FleetNode, named: readonly string[], book: PeerBook): void {
  const nameAll = (): void => {
    for (const { id, fleet } of book.all) node.gate.name(id, fleet);
    for (const address of named) node.gate.name(idOf(address), [address]);
  };
  book.onChange(nameAll);
  nameAll();
}

/** Dials until the signal comes: at once when a new gateway is known, and every DIAL_EVERY_MS. */
async function keepDialled(
  node: FleetNode,
  named: readonly string[],
  { book, troubles, log, signal }: Pick<FleetNetworkOptions, 'book' | 'troubles' | 'log' | 'signal'>,
): Promise<void> {
  const turn = pLimit(1);
  const round = (): Promise<void> => turn(() => dialAll(node, named, { book, troubles, log, signal }));
  const dialSoon = (): void => {
    // A round that waits for its turn will see gateways that were added meanwhile.
    if (turn.pendingCount === 0)
      round().catch((error: unknown) => log.error({ err: error }, 'dialling failed'));
  };
  book.onChange(dialSoon);
  node.onFound(({ id }) => {
    if (!node.isConnected(id)) dialSoon();
  });
  do {
    await round();
  } while (await sleep(withJitter(DIAL_EVERY_MS), signal));
}

async function dialAll(
  node: FleetNode,
  named: readonly string[],
  { book, troubles, log, signal }: Pick<FleetNetworkOptions, 'book' | 'troubles' | 'log' | 'signal'>,
): Promise<void> {
  const { id: own, connected } = node;
  const found = shuffled(node.found).map(({ id, addresses }) => ({
    id,
    fleet: tellableAddresses(addresses),
  }));
  for (const addresses of peersToDial({ own, named, connected, known: book.all, found })) {
    for (const address of addresses) {
      if (signal.aborted) return;
      try {
        await node.dial(address, signal);
        break;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof SitecastError)) throw error;
        tellUnreached(error, address, { isNamed: named.includes(address), troubles, log });
      }
    }
  }
}

/** Those that the settings name are to be reached: people hear of it where they aren't. The log holds repeats back. */
function tellUnreached(
  error: SitecastError,
  address: string,
  { isNamed, troubles, log }: Pick<FleetNetworkOptions, 'troubles' | 'log'> & { isNamed: boolean },
): void {
  const { code, message: detail, hint } = error;
  if (isNamed && code === 'SITECAST_FLEET_KEY_DIFFERS') troubles.note(error);
  const fields = { peer: address, code, detail, ...(hint !== undefined && { hint }) };
  log[isNamed ? 'warn' : 'debug'](fields, 'a gossip peer is out of reach; it is tried again');
}
