import type { Endings } from '@sitecast/shared/command';
import type { SitecastError } from '@sitecast/shared/errors';
import type { JoinToken } from '@sitecast/shared/fleet';
import type { SharedConnections } from '@sitecast/shared/http-guards';
import { Receiver } from '@sitecast/shared/http-signature';
import type { Identity } from '@sitecast/shared/identity';
import type { DatabaseState, KeyValueStore } from '@sitecast/shared/key-value';
import type { Log } from '@sitecast/shared/log';
import type { MetadataStore } from '@sitecast/shared/trust';
import { type ChunkServices, openChunkServices } from './chunk-services.ts';
import type { FrameFiles } from './chunks/disk-cache.ts';
import { Revocations, SiteDevices } from './devices/site-devices.ts';
import type { SiteNode } from './devices/site-node.ts';
import { pinRoot } from './enrolment/pinned-root.ts';
import { createApp, type GatewayApp } from './http/app.ts';
import type { ChunkHandler } from '@sitecast/shared/chunk-http';
import { chunkHandler } from './http/chunk-handler.ts';
import { Metrics, type MetricsSource } from './http/metrics.ts';
import { fleetListener } from './http/fleet-listener.ts';
import type { Follower } from './mirror/follower.ts';
import type { MirrorSet } from './mirror/mirror-set.ts';
import type { MirrorStore } from './mirror/mirror-store.ts';
import { Sources } from './mirror/sources.ts';
import type { FleetNetwork } from './peer-gateways/announcements.ts';
import type { NeighbourUpload } from './peer-gateways/neighbour-upload.ts';
import { idOf, PeerBook, type PeerBookStorage } from './peer-gateways/peer-book.ts';
import { type PeerGatewayClient, PeerGateways } from './peer-gateways/peer-gateways.ts';
import { Troubles } from './troubles.ts';
import type { GatewaySettings } from './settings.ts';
import { type MirrorServices, openFollower, openMirrorServices } from './mirror-services.ts';
import { openSiteServices, type SiteServices } from './site-services.ts';
import { runTasks, type Task } from './tasks.ts';
import { SiteUpstreams } from './upstream/site-upstreams.ts';
import type { Upstream } from './upstream/upstream.ts';
import { WanLimits } from './wan/wan-limits.ts';

/** What `main.ts` opens: everything that touches the disk, a socket or the process. */
export interface Adapters {
  settings: Omit<GatewaySettings, 'listen'>;
  identity: Identity;
  token: JoinToken | undefined;
  /** The bytes of --root FILE. */
  rootFile: Uint8Array | undefined;
  trustStore: MetadataStore;
  mirrorStore: MirrorStore;
  frames: FrameFiles;
  peerBook: PeerBookStorage;
  database: DatabaseState;
  /** A part of the database, by name. */
  records: (name: string) => KeyValueStore;
  /** Free bytes of the data directory's file system. */
  freeBytes: () => Promise<number>;
  /** Connections of its HTTP side. */
  connections: Pick<SharedConnections, 'hosts' | 'dropped'>;
  openUpstreams: (wan: Wan) => readonly Upstream[];
  openPeerGatewayClient: (onRefused: OnRefused) => PeerGatewayClient;
  /** Undefined where this gateway exchanges no chunks with devices over libp2p. */
  joinSiteNetwork: (troubles: Troubles, signal: AbortSignal) => Promise<SiteNode | undefined>;
  /** Undefined where this gateway is not in the fleet's network. */
  joinFleetNetwork: (
    book: PeerBook,
    about: Wan & { troubles: Troubles },
  ) => Promise<FleetNetwork | undefined>;
  /** Called when there is a trusted root. The origin is then remembered. */
  onTrusted: () => Promise<void>;
  /** Called with this gateway's display name, again whenever its assignment is read. */
  onName: (name: string | undefined) => void;
  /** By how much to lengthen its waits for devices. */
  patience: number;
  now: () => number;
  log: Log;
}

/** What bounds and counts the bytes that go over the site's WAN. */
export interface Wan {
  wanLimits: WanLimits;
  metrics: Metrics;
}

type OnRefused = (url: string, error: SitecastError) => void;

/** A gateway that is ready to listen. */
export interface GatewayServices {
  readonly app: GatewayApp;
  readonly handleChunk: ChunkHandler;
  /**
   * Works until the signal comes and all of it has stopped.
   * @param urls of the gateway's own HTTP side, for the other gateways of the site
   */
  run(urls: readonly string[], signal: AbortSignal): Promise<void>;
  /** Saves what may be lost, but should not be. */
  flush(): Promise<void>;
}

/**
 * Connects a gateway's parts: reads the data directory, and waits for the origin only if there is no trusted root yet. Each step gets what
 * the steps before it have opened:
 *
 * outside      the other machines: upstreams within the WAN's limits, peer gateways, the networks of libp2p
 *     repository   the origin's files that are stored here, and the chunks that they name (mirror-services.ts)
 *     site         devices and the origin, through this gateway: enrolments, reports, leases, presence, the tracker (site-services.ts)
 *     follower     keeps the repository up to date with the upstreams, and tells the site of each new set (mirror-services.ts)
 *     chunks       where chunks come from, and who gets them (chunk-services.ts, chunk-pipeline.ts)
 *     app          the HTTP side of all of them; chunks have a handler of their own
 * tasks        work until the gateway stops
 *
 * @param signal ends the wait for the origin, and the work of the networks
 * @throws what keeps the gateway from starting: SITECAST_ROOT_DIFFERS, SITECAST_ROOT_MISSING, SITECAST_FLEET_KEY_MISSING …
 */
export async function openGatewayServices(
  adapters: Adapters,
  { endings, signal }: { endings: Pick<Endings, 'add'>; signal: AbortSignal },
): Promise<GatewayServices> {
  const { identity, connections, database, now, log } = adapters;
  const outside = await openOutside(adapters, { endings, signal });
  const { metrics, devices, revocations, peerGateways } = outside;
  const repository = openMirrorServices({ ...adapters, ...outside });
  const { mirror } = repository;
  const site = await openSiteServices({ ...adapters, ...outside, mirror, site: adapters.settings.site });
  const onSwap = siteFollows(adapters, outside, site);
  const follower = await openFollower({ ...adapters, ...outside, ...repository, onSwap });
  const chunks = await openChunkServices({
    ...adapters,
    ...outside,
    ...repository,
    ownId: identity.id,
    isCutOff: () => follower.isCutOff,
    site,
  });
  const app = createApp({
    ...site,
    ...repository,
    siteWays: chunks.siteWays,
    receiver: new Receiver(identity.id),
    self: () => ({ id: identity.id, ...(devices.site && { site: devices.site }) }),
    onGatewaySeen: id => {
      if (!peerGateways.noteAlive(id)) site.registration.onUnknownGateway();
    },
    isHere: site.isHere,
    isRevoked: id => revocations.has(id),
    isOwnRevoked: () => revocations.has(identity.id),
    hosts: connections.hosts,
    metrics,
    database,
    room: { path: adapters.settings.data, freeBytes: adapters.freeBytes },
    now,
    log,
  });
  await serveNeighbours(app, adapters, outside, chunks.upload);
  const onAnswer = (status: number, sentBytes: number): void => metrics.chunkAnswered(status, sentBytes);
  const handleChunk = chunkHandler({ chunks: chunks.pipeline, onAnswer, log });
  metrics.watch(metricsSource(adapters, outside, { repository, site, chunks, follower }));
  // The names are part of the log.
  const tasksWith = (urls: readonly string[]): Record<string, Task> => ({
    follow: stop => follower.run(stop),
    enrol: stop => site.own.run(stop),
    meet: stop => site.registration.run(urls, stop),
    sendReports: stop => site.sender.run(stop),
    sendProgress: stop => site.progress.run(stop),
    tellPresence: stop => site.presence.run(stop),
    knowSiblings: stop => peerGateways.run(stop),
    ...chunks.tasks,
  });
  return {
    app,
    handleChunk,
    run: (urls, stop) => runTasks(tasksWith(urls), { log, signal: stop }),
    flush: chunks.flush,
  };
}

/** Serves neighbours of the fleet's network. */
async function serveNeighbours(
  app: GatewayApp,
  { settings, now, log }: Adapters,
  { fleetNetwork, upstreams, revocations, wanLimits, book }: Outside,
  upload: NeighbourUpload,
): Promise<void> {
  const origin = new SiteUpstreams(upstreams.filter(({ isOrigin }) => isOrigin));
  const isRevoked = (id: string): boolean => revocations.has(id);
  const named = new Set(settings.gossipPeer?.map(idOf));
  const isKnown = (id: string): boolean => named.has(id) || book.has(id);
  await fleetNetwork?.serve(fleetListener(app, { origin, upload, wanLimits, isRevoked, isKnown, now, log }));
}

type Outside = Awaited<ReturnType<typeof openOutside>>;

/** Opens the ways to other machines: upstreams, peer gateways, the two networks of libp2p. There is a trusted root when it resolves. */
async function openOutside(
  adapters: Adapters,
  { endings, signal }: { endings: Pick<Endings, 'add'>; signal: AbortSignal },
) {
  const { settings, identity, token, rootFile, trustStore, now, log } = adapters;
  const metrics = new Metrics();
  const troubles = new Troubles();
  const onRefused = (url: string, { code }: SitecastError): void => metrics.refused(url, code);
  const devices = new SiteDevices();
  const revocations = new Revocations();
  const book = await PeerBook.open(adapters.peerBook);
  const peerGateways = new PeerGateways({
    ownId: identity.id,
    site: () => devices.site,
    book,
    configured: settings.siteGateway ?? [],
    isRevoked: id => revocations.has(id),
    client: adapters.openPeerGatewayClient(onRefused),
    log,
  });
  const siteGateways = (): number => 1 + peerGateways.liveCount;
  const wanLimits = new WanLimits(settings, { sharers: siteGateways, now });
  const upstreams = adapters.openUpstreams({ wanLimits, metrics });
  const fleetNetwork = await adapters.joinFleetNetwork(book, { wanLimits, metrics, troubles });
  endings.add("the fleet's network", async () => fleetNetwork?.close());
  const sources = new Sources(upstreams, fleetNetwork?.neighbours);
  await pinRoot({ store: trustStore, rootFile, token, sources, nowMs: now(), log, signal });
  await adapters.onTrusted();
  const siteNode = await adapters.joinSiteNetwork(troubles, signal);
  endings.add("the site's network", async () => siteNode?.close());
  return {
    metrics,
    troubles,
    onRefused,
    devices,
    revocations,
    book,
    peerGateways,
    siteGateways,
    wanLimits,
    upstreams,
    siteNode,
    fleetNetwork,
    sources,
  };
}

/** Passes each served set on to the site's services: the revoked ids, and, when assignments can be verified, its devices. */
function siteFollows(
  { identity, log }: Adapters,
  { revocations, siteNode }: Outside,
  site: SiteServices,
): (set: MirrorSet) => void {
  let isCounted = false;
  const isOwnRevoked = (): boolean => revocations.has(identity.id);
  return ({ rollouts, rolloutsSigners }) => {
    const wasRevoked = isOwnRevoked();
    for (const id of revocations.update(rollouts)) siteNode?.drop(id);
    if (isOwnRevoked() && !wasRevoked)
      log.error({}, 'the operator has revoked this gateway: it takes nothing in');
    if (isCounted || !rolloutsSigners) return;
    isCounted = true;
    site
      .countDevices()
      .catch((error: unknown) => log.error({ err: error }, 'the devices of the site could not be counted'));
  };
}

function metricsSource(
  { settings, database, freeBytes, connections, now }: Adapters,
  { siteGateways, siteNode, fleetNetwork, devices, troubles }: Outside,
  parts: { repository: MirrorServices; site: SiteServices; chunks: ChunkServices; follower: Follower },
): MetricsSource {
  const { mirror, allowlist } = parts.repository;
  const { site, chunks, follower } = parts;
  return {
    chunkCounts: () => chunks.pipeline.counts(),
    siteGateways,
    troubles: () => troubles.all.map(({ code }) => code),
    gossipConnections: () => fleetNetwork?.connections ?? 0,
    cache: () => chunks.disk,
    allowedChunks: () => allowlist.size,
    queue: () => site.queue,
    reportsOverBudget: () => site.reports.overBudget,
    mirrorSet: () => mirror.current,
    isMirrorComplete: () => mirror.isComplete,
    waiters: () => mirror.waiters,
    devices: () => devices.total,
    trackedPeers: () => site.tracker.size,
    heardDevices: () => site.heard.now().size,
    heldLeases: () => site.leases.held(),
    linkedDevices: () => chunks.deviceChunks?.linked ?? 0,
    dropped: () => ({
      http: connections.dropped,
      peers: siteNode?.dropped ?? 0,
      gossip: fleetNetwork?.dropped ?? 0,
      chunks: chunks.pipeline.givenUp(),
      documents: site.assignments.givenUp + site.acknowledgements.givenUp,
      enrolments: site.enrolments.givenUp,
    }),
    lastContactMs: () => follower.lastContactMs,
    isEnrolled: () => site.own.state === 'enrolled',
    freeBytes,
    reserveBytes: settings.reserve,
    database: () => database,
    now,
  };
}
