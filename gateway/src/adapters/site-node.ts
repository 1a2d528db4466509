import { lookup } from 'node:dns/promises';
import { isIPv6 } from 'node:net';
import type { SitePeer } from '@sitecast/shared/api';
import type { Identity } from '@sitecast/shared/identity';
import type * as swarmRoom from '@sitecast/shared/swarm';
import type { ChunkServer, HttpPeers, PeerLinks, SwarmNode } from '@sitecast/shared/swarm';
import type { Log } from '@sitecast/shared/log';
import type { SubscribedImage, ServingPorts, SiteNode, WantedImage } from '../devices/site-node.ts';
import { SitecastError } from '@sitecast/shared/errors';
import type { GatewaySettings } from '../settings.ts';
import type { Troubles } from '../troubles.ts';

/** The port above that of an agent on the same machine. */
const USUAL_PORT = 7404;
const MAX_CONNECTIONS = 128;
/** How many streams are served at a time: each holds two chunks in memory, and a quarter of a MiB. */
const MAX_SERVED_STREAMS = 32;

type Swarm = typeof swarmRoom;

interface SiteNodeOptions {
  settings: Pick<GatewaySettings, 'peers' | 'peerListen' | 'mdns' | 'listen'>;
  identity: Identity;
  troubles: Pick<Troubles, 'note' | 'end'>;
  /** Ends the attempts to listen. */
  signal: AbortSignal;
  log: Log;
}

/**
 * Joins the network of the site's devices, if the settings say so. libp2p is not loaded otherwise. Where it can't listen yet, it tells that,
 * dials devices meanwhile, and listens as soon as it can.
 */
export async function openSiteNode({
  settings,
  identity,
  troubles,
  signal,
  log,
}: SiteNodeOptions): Promise<SiteNode | undefined> {
  if (settings.peers !== true) return undefined;
  const swarm = await import('@sitecast/shared/swarm');
  let last: unknown;
  const places = await placesOf(settings);
  const open = (listen: string[]): Promise<SwarmNode> =>
    swarm.createSiteNode({
      identity,
      listen,
      isDiscovering: settings.mdns ?? false,
      // Devices ask this gateway over HTTP, and need not discover it here.
      isHidden: true,
      maxConnections: MAX_CONNECTIONS,
    });
  for (const place of places) {
    try {
      const node = await open([place]);
      log.info({ addresses: node.addresses }, 'takes part in the chunk exchange of the site');
      return new Libp2pSiteNode(swarm, node);
    } catch (error) {
      last = error;
    }
  }
  const trouble = new SitecastError(
    'failed',
    'SITECAST_PEER_LISTEN',
    `devices can't reach this gateway for chunks on ${places.join(' nor on ')}${swarm.whyNotListening(last)}`,
    { hint: 'It is tried again; give a free port with --peer-listen, or --no-peers.' },
  );
  troubles.note(trouble, { lasts: true });
  const { code, message, hint } = trouble;
  log.error({ code, hint }, message);
  const node = await open([]);
  const begin = async (): Promise<void> => {
    if (!(await node.listenWhenFree(places[0] ?? '', signal))) return;
    troubles.end(code);
    log.info({ addresses: node.addresses }, 'takes part in the chunk exchange of the site');
  };
  begin().catch((error: unknown) =>
    log.error({ err: error }, 'the chunk exchange could not be listened for'),
  );
  return new Libp2pSiteNode(swarm, node);
}

/** The address of the settings; otherwise that of HTTP, with the usual port or any free one. */
async function placesOf({
  peerListen,
  listen,
}: Pick<GatewaySettings, 'peerListen' | 'listen'>): Promise<string[]> {
  if (peerListen !== undefined) return [peerListen];
  const { address } = await lookup(listen.host);
  return [USUAL_PORT, 0].map(port => `/ip${isIPv6(address) ? 6 : 4}/${address}/tcp/${port}`);
}

class Libp2pSiteNode implements SiteNode {
  readonly #swarm: Swarm;
  readonly #node: SwarmNode;
  readonly #httpPeers: HttpPeers;
  readonly #links = new Set<PeerLinks>();
  /** By device: for how many images it is linked. */
  readonly #uses = new Map<string, number>();
  #server: ChunkServer | undefined;

  constructor(swarm: Swarm, node: SwarmNode) {
    this.#swarm = swarm;
    this.#node = node;
    this.#httpPeers = new swarm.HttpPeers({ node });
  }

  get addresses(): readonly string[] {
    return this.#node.addresses;
  }

  get discovered(): readonly SitePeer[] {
    return this.#node.found;
  }

  async serve({ onServed, ...ports }: ServingPorts): Promise<void> {
    this.#server = new this.#swarm.ChunkServer({
      ...ports,
      node: this.#node,
      // It stays empty: requesters don't learn which chunks are stored here, and use HTTP for chunks that no device has.
      haveMap: new this.#swarm.HaveMap(),
      maxStreams: MAX_SERVED_STREAMS,
      onServed: (_, lengthBytes) => onServed(lengthBytes),
    });
    await this.#server.start();
  }

  reserve({ id, addresses }: SitePeer): void {
    this.#node.gate.name(id, addresses);
  }

  get dropped(): number {
    return this.#node.gate.dropped + (this.#server?.dropped ?? 0);
  }

  drop(id: string): void {
    this.#server?.drop(id);
  }

  subscribe({ id, index, credential, maxLinked, deadlineMs, onBan }: WantedImage): SubscribedImage {
    const chunks = new this.#swarm.HolderStore({ index, maxPeers: maxLinked, deadlineMs, onBan });
    const links = new this.#swarm.PeerLinks({
      node: this.#node,
      swarm: chunks,
      image: id,
      count: index.count,
      credential,
      onMisbehaviour: onBan,
      http: this.#httpPeers,
    });
    this.#links.add(links);
    const added = new Set<string>();
    return {
      chunks,
      get linked() {
        return chunks.linked;
      },
      get announced() {
        return chunks.announced;
      },
      isOfImage: chunk => chunks.isOfImage(chunk),
      addPeer: peer => {
        if (!added.has(peer.id)) this.#uses.set(peer.id, (this.#uses.get(peer.id) ?? 0) + 1);
        added.add(peer.id);
        links.addPeer(peer.id, peer.addresses);
      },
      close: async () => {
        await links.close();
        this.#links.delete(links);
        for (const peer of added) await this.#release(peer);
      },
    };
  }

  async close(): Promise<void> {
    await Promise.all([...this.#links].map(links => links.close()));
    await this.#server?.stop();
    await this.#node.close();
  }

  /** Ends the connection when no image needs it any more. */
  async #release(peer: string): Promise<void> {
    const uses = (this.#uses.get(peer) ?? 1) - 1;
    if (uses > 0) {
      this.#uses.set(peer, uses);
      return;
    }
    this.#uses.delete(peer);
    try {
      await this.#node.hangUp(peer);
    } catch {
      // The device has disconnected.
    }
  }
}
