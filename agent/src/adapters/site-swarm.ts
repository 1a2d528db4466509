import { Pacer, lruCache } from '@sitecast/shared/bounded';
import {
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  chunkIdToHex,
  chunkNotFound,
  isNotFound,
} from '@sitecast/shared/content';
import { ChunkHttpServer } from '@sitecast/shared/chunk-http';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { Identity } from '@sitecast/shared/identity';
import {
  ChunkServer,
  createSiteNode,
  HaveMap,
  HttpPeers,
  ImageHoldings,
  Neighbours,
  PeerLinks,
  serveSessions,
  type ServingPorts,
  type SwarmNode,
  SwarmStore,
  whyNotListening,
} from '@sitecast/shared/swarm';
import { type RepositorySource, shuffled } from '@sitecast/shared/upstream';
import type {
  FoundPeer,
  HeldFiles,
  HeldImage,
  Log,
  PeerCounts,
  PeerFetch,
  SiteImage,
  SitePeers,
} from '../ports.ts';
import { SiteFiles } from './site-files.ts';

/** How many machines named by gateways are kept. Those named longest ago are forgotten first. */
const MAX_NAMED_PEERS = 256;
/** How many machines found by multicast DNS are kept. Any machine on the LAN can invent some, so there are few places. */
const MAX_FOUND_PEERS = 64;
/** How many of these take part in one download. */
const MAX_FOUND_ADDED = 24;
const KNOWN_FOR_MS = 10 * 60_000;
/** Of three machines that are asked for signed files, this many were named by a gateway: so inventing others keeps none of these away. */
const NAMED_FIRST = 2;
const MAX_CONNECTIONS = 128;
const LOOPBACK = /^\/ip4\/127\.|^\/ip6\/::1\//;
const USUAL_PLACE = '/ip4/0.0.0.0/tcp/7403';
const ANY_PLACE = '/ip4/0.0.0.0/tcp/0';
/** The HTTP port for chunks is this much higher: a gateway on the same machine uses the port in between. */
const HTTP_PORT_ABOVE = 2;
const MAX_PORT = 65_535;

export interface SiteSwarmOptions {
  identity: Identity;
  /** Multiaddress to listen on; undefined: the usual port, so that peers find this device after a restart, or any free port. */
  listen: string | undefined;
  /** Finds peers by multicast DNS, and is found by it. */
  isDiscovering: boolean;
  /** Bound on all uploads together; undefined: none. */
  maxUploadBytesPerS: number | undefined;
  /** This device's signed assignment, as bytes; undefined before it is enrolled. */
  credential: () => Uint8Array | undefined;
  /** Whether a device may be served, by the credential that it shows. */
  mayServe: (id: string, credential: Uint8Array) => boolean;
  /** True while no chunks should be served. */
  isBusy: () => boolean;
  /** The signed files that peers may fetch. */
  files: HeldFiles;
  /** Others can reach this device now, and could not before. */
  onReachable: () => void;
  log: Log;
}

/** The site's devices over libp2p, which takes about 20 MiB of memory. It is loaded only with peers enabled. */
export class SiteSwarm implements SitePeers {
  readonly #node: SwarmNode;
  readonly #options: SiteSwarmOptions;
  readonly #haveMap = new HaveMap();
  readonly #held = new Map<string, ChunkStore>();
  readonly #serving: Omit<ServingPorts, 'haveMap'>;
  readonly #server: ChunkServer;
  /** Undefined where it can't listen. Chunks are then served over streams only. */
  #http: ChunkHttpServer | undefined;
  readonly #httpPeers: HttpPeers;
  readonly #neighbours: Neighbours;
  readonly #named = lruCache<string, FoundPeer>({ max: MAX_NAMED_PEERS, ttl: KNOWN_FOR_MS });
  readonly #found = lruCache<string, FoundPeer>({ max: MAX_FOUND_PEERS, ttl: KNOWN_FOR_MS });
  /** All machines that gateways have named, however long ago: for times without a gateway. */
  readonly #everNamed = lruCache<string, FoundPeer>({ max: MAX_NAMED_PEERS });
  readonly #files: SiteFiles;
  /** Peers found by multicast DNS that take part in the current download. */
  readonly #foundAdded = new Set<string>();
  readonly #stop = new AbortController();
  #trouble: SitecastError | undefined;
  #links: PeerLinks | undefined;
  #receivedBytes = 0;
  #sentBytes = 0;

  private constructor(node: SwarmNode, options: SiteSwarmOptions) {
    this.#node = node;
    this.#options = options;
    const { maxUploadBytesPerS, mayServe, isBusy, files, credential } = options;
    const pace = maxUploadBytesPerS === undefined ? undefined : new Pacer(maxUploadBytesPerS);
    this.#serving = {
      store: anyOf(this.#held),
      mayServe,
      isBusy,
      onServed: (_: string, lengthBytes: number) => {
        this.#sentBytes += lengthBytes;
      },
      ...(pace && { pace }),
    };
    this.#neighbours = new Neighbours(node);
    this.#server = new ChunkServer({ ...this.#serving, node, haveMap: this.#haveMap });
    this.#httpPeers = new HttpPeers({ node });
    this.#files = new SiteFiles({ node, files, credential, mayServe, isBusy, pace });
    node.onFound(peer => {
      this.#found.set(peer.id, peer);
      this.#addFound(peer);
    });
  }

  /** Where it can't listen yet it dials others meanwhile, and listens as soon as it can. */
  static async start(options: SiteSwarmOptions): Promise<SiteSwarm> {
    const { node, place, trouble } = await openNode(options);
    const swarm = new SiteSwarm(node, options);
    await swarm.#server.start();
    if (trouble) swarm.#listenLater(place, trouble);
    else await swarm.#serveHttp(place);
    await swarm.#files.start();
    return swarm;
  }

  #listenLater(place: string, trouble: SitecastError): void {
    const { log } = this.#options;
    const { code, message, hint } = trouble;
    this.#trouble = trouble;
    log('error', message, { code, hint });
    const begin = async (): Promise<void> => {
      if (!(await this.#node.listenWhenFree(place, this.#stop.signal))) return;
      await this.#serveHttp(place);
      this.#trouble = undefined;
      this.#options.onReachable();
      log('info', `other devices can reach this one now: ${place} is free`);
    };
    begin().catch((error: unknown) => log('error', 'other devices are not listened for', { err: error }));
  }

  async #serveHttp(place: string): Promise<void> {
    try {
      const self = this.#node.id;
      this.#http = await ChunkHttpServer.listen({ ...this.#serving, self }, httpPlacesBeside(place));
    } catch (error) {
      if (!isSystemError(error)) throw error;
      return;
    }
    await serveSessions(this.#node, this.#http);
  }

  /** Without loopback addresses, which other machines can't use, unless there are no others. */
  get addresses(): readonly string[] {
    const { addresses } = this.#node;
    const outer = addresses.filter(address => !LOOPBACK.test(address));
    return outer.length > 0 ? outer : addresses;
  }

  get counts(): PeerCounts {
    const known = new Set([...this.#named.keys(), ...this.#found.keys()]).size;
    const dropped = this.#node.gate.dropped + this.#server.dropped + (this.#http?.dropped ?? 0);
    const trouble = this.#trouble?.message;
    return {
      known,
      receivedBytes: this.#receivedBytes,
      sentBytes: this.#sentBytes,
      dropped,
      ...(trouble !== undefined && { trouble }),
    };
  }

  hold({ id, index }: SiteImage, chunks: ChunkStore): HeldImage {
    const holdings = new ImageHoldings(id, index.count, true);
    const name = chunkIdToHex(id);
    this.#held.set(name, chunks);
    this.#haveMap.put(holdings);
    return {
      get count() {
        return holdings.bits.size;
      },
      add: at => holdings.add(at),
      settle: () => {
        holdings.isFetching = false;
      },
      end: () => {
        // Both slots may hold the same image. Then the later one stays.
        if (this.#held.get(name) !== chunks) return;
        this.#held.delete(name);
        this.#haveMap.remove(id);
      },
    };
  }

  note(peers: readonly FoundPeer[]): void {
    for (const peer of peers) {
      if (peer.id === this.#node.id) continue;
      this.#named.set(peer.id, peer);
      this.#everNamed.set(peer.id, peer);
      this.#node.gate.name(peer.id, peer.addresses);
      if (this.#links) this.#links.addPeer(peer.id, peer.addresses);
      else this.#neighbours.addPeer(peer.id, peer.addresses);
    }
  }

  remember(peers: readonly FoundPeer[]): void {
    for (const peer of peers) {
      if (peer.id === this.#node.id) continue;
      this.#everNamed.set(peer.id, peer);
      this.#node.gate.name(peer.id, peer.addresses);
    }
  }

  async fetch(
    { id, index }: SiteImage,
    wanted: Iterable<number>,
    { gateway, concurrency, signal, refusedMs, deliver, onBan }: PeerFetch,
  ): Promise<void> {
    const swarm = new SwarmStore({
      index,
      self: this.#node.id,
      gateway,
      onBan: (source, { code }) => onBan(source, code),
      onFromPeer: (_, lengthBytes) => {
        this.#receivedBytes += lengthBytes;
      },
    });
    const credential = this.#options.credential();
    const links = new PeerLinks({
      node: this.#node,
      swarm,
      image: id,
      count: index.count,
      ...(credential && { credential }),
      onMisbehaviour: (peer, { code }) => onBan(peer, code),
      http: this.#httpPeers,
    });
    this.#links = links;
    this.#foundAdded.clear();
    // If gateways have named no machines lately, those named earlier may still be there.
    const named = this.#named.size > 0 ? this.#named : this.#everNamed;
    for (const peer of named.values()) links.addPeer(peer.id, peer.addresses);
    for (const peer of this.#found.values()) this.#addFound(peer);
    try {
      await swarm.fetch(wanted, { concurrency, signal, refusedMs, deliver });
    } finally {
      this.#links = undefined;
      await links.close();
    }
  }

  #addFound({ id, addresses }: FoundPeer): void {
    if (!this.#links || this.#named.has(id)) return;
    if (this.#foundAdded.size >= MAX_FOUND_ADDED && !this.#foundAdded.has(id)) return;
    this.#foundAdded.add(id);
    this.#links.addPeer(id, addresses);
  }

  sources(): readonly RepositorySource[] {
    const named = shuffled([...this.#everNamed.values()]);
    const found = shuffled([...this.#found.values()].filter(({ id }) => !this.#everNamed.has(id)));
    const [first, rest] = [named.slice(0, NAMED_FIRST), named.slice(NAMED_FIRST)];
    return [...first, ...found, ...rest].map(peer => this.#files.sourceAt(peer));
  }

  knownDevices(): { named: readonly string[]; found: number } {
    const named = [...this.#everNamed.keys()];
    const found = [...this.#found.keys()].filter(id => !this.#everNamed.has(id)).length;
    return { named, found };
  }

  async isUp(id: string, signal: AbortSignal): Promise<boolean> {
    const peer = this.#everNamed.peek(id);
    return peer !== undefined && (await this.#files.isUp(peer, signal));
  }

  drop(id: string): void {
    this.#server.drop(id);
    this.#http?.sessions.drop(id);
  }

  async close(): Promise<void> {
    this.#stop.abort();
    this.#files.stop();
    await this.#links?.close();
    await this.#neighbours.close();
    await this.#server.stop();
    await this.#http?.close();
    await this.#node.close();
  }
}

/** Of several agents on one machine, as in a demo, only one gets the usual port. */
async function openNode({
  identity,
  listen,
  isDiscovering,
}: SiteSwarmOptions): Promise<{ node: SwarmNode; place: string; trouble?: SitecastError }> {
  const places = listen === undefined ? [USUAL_PLACE, ANY_PLACE] : [listen];
  let last: unknown;
  const open = (listened: string[]): Promise<SwarmNode> =>
    createSiteNode({ identity, listen: listened, isDiscovering, maxConnections: MAX_CONNECTIONS });
  for (const place of places) {
    try {
      return { node: await open([place]), place };
    } catch (error) {
      last = error;
    }
  }
  const trouble = new SitecastError(
    'failed',
    'SITECAST_PEER_LISTEN',
    `other devices can't reach this one on ${places.join(' nor on ')}${whyNotListening(last)}; it is tried again`,
    { hint: 'give a free port with --peer-listen, or --no-peers', cause: last },
  );
  return { node: await open([]), place: places[0] ?? ANY_PLACE, trouble };
}

/** Where the HTTP server listens: at the same address, on the higher port, or on any free port. */
function httpPlacesBeside(place: string): { host: string; port: number }[] {
  const [, host = '0.0.0.0', port = '0'] = /^\/ip[46]\/([^/]+)\/tcp\/(\d+)/.exec(place) ?? [];
  const above = Number(port) + HTTP_PORT_ABOVE;
  return [...(port !== '0' && above <= MAX_PORT ? [above] : []), 0].map(each => ({ host, port: each }));
}

/** A store of all chunks that any of the stores has. */
function anyOf(stores: ReadonlyMap<string, ChunkStore>): ChunkStore {
  const any: ChunkStore = {
    name: 'this device',
    has: async (id: ChunkId, request?: ChunkRequest) => {
      for (const store of stores.values()) if (await store.has(id, request)) return true;
      return false;
    },
    get: async (id: ChunkId, request?: ChunkRequest) => {
      for (const store of stores.values()) {
        // An error with its stack costs more than reading a chunk.
        if (!(await store.has(id, request))) continue;
        try {
          return await store.get(id, request);
        } catch (error) {
          if (!isNotFound(error)) throw error;
        }
      }
      throw chunkNotFound(id, any);
    },
  };
  return any;
}
