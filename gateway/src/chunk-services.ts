import { sleep } from '@sitecast/shared/async';
import type { ChunkStore } from '@sitecast/shared/content';
import type { SitecastError } from '@sitecast/shared/errors';
import type { KeyValueStore } from '@sitecast/shared/key-value';
import type { Log } from '@sitecast/shared/log';
import type { FoundTarget } from '@sitecast/shared/trust';
import { type ChunkPipeline, openChunkPipeline } from './chunk-pipeline.ts';
import type { ChunkAllowlist } from './chunks/allowlist.ts';
import { DiskCache, type FrameFiles } from './chunks/disk-cache.ts';
import { admission } from './devices/admission.ts';
import { DeviceChunks } from './devices/device-chunks.ts';
import type { SiteDevices } from './devices/site-devices.ts';
import type { SiteNode } from './devices/site-node.ts';
import type { Metrics } from './http/metrics.ts';
import type { Mirror } from './mirror/mirror.ts';
import type { TargetFiles } from './mirror/target-files.ts';
import type { FleetNetwork } from './peer-gateways/announcements.ts';
import { DailyBudget } from './peer-gateways/daily-budget.ts';
import { neighbourChunks } from './peer-gateways/neighbour-chunks.ts';
import { type NeighbourUpload, neighbourUpload } from './peer-gateways/neighbour-upload.ts';
import type { PeerGateways } from './peer-gateways/peer-gateways.ts';
import type { GatewaySettings } from './settings.ts';
import type { SiteServices } from './site-services.ts';
import type { Upstream } from './upstream/upstream.ts';
import { Prefetch } from './wan/prefetch.ts';
import { SiteWays } from './wan/site-ways.ts';
import type { WanLimits } from './wan/wan-limits.ts';

/** How often the order of uses in the chunk cache is saved. */
const FLUSH_EVERY_MS = 10_000;
/** All gateways of other sites together get this many times what one may have. */
const UPLOADS = 4;

interface ChunkServicesDeps {
  /** This gateway's id. */
  ownId: string;
  settings: Pick<GatewaySettings, 'cacheBytes' | 'memoryBytes' | 'reserve' | 'prefetch' | 'fleetUpload'>;
  frames: FrameFiles;
  /** A part of the database, by name. */
  records: (name: string) => KeyValueStore;
  mirror: Mirror;
  targets: TargetFiles;
  /** Fetches a mirrored file. If it is an index, its chunks may be requested from then on. */
  fetchTarget: (target: FoundTarget) => Promise<Uint8Array>;
  allowlist: ChunkAllowlist;
  upstreams: readonly Upstream[];
  wanLimits: WanLimits;
  peerGateways: PeerGateways;
  siteNode: SiteNode | undefined;
  fleetNetwork: Pick<FleetNetwork, 'neighbours'> | undefined;
  /** Whether no upstream answers. */
  isCutOff: () => boolean;
  devices: SiteDevices;
  site: Pick<SiteServices, 'own' | 'assignments' | 'tracker' | 'heard' | 'signers' | 'isRevoked'>;
  metrics: Metrics;
  onRefused: (url: string, error: SitecastError) => void;
  patience: number;
  now: () => number;
  log: Log;
}

export type ChunkServices = Awaited<ReturnType<typeof openChunkServices>>;

/** The chunk pipeline, the stores that it reads, the prefetch, and the upload to devices over libp2p. */
export async function openChunkServices(deps: ChunkServicesDeps) {
  const { settings, allowlist, metrics, siteNode, now, log } = deps;
  const disk = await DiskCache.open({
    files: deps.frames,
    records: deps.records('chunks'),
    isPinned: id => allowlist.isPinned(id),
    maxBytes: settings.cacheBytes,
    reserveBytes: settings.reserve,
    now,
    log,
  });
  const deviceChunks = siteNode && openDeviceChunks(deps, { siteNode, disk });
  const pipeline = openChunkPipeline({
    ownId: deps.ownId,
    memoryBytes: settings.memoryBytes,
    disk,
    allowlist,
    peerGateways: deps.peerGateways,
    deviceChunks,
    upstreams: deps.upstreams,
    neighbours: neighboursStore(deps),
    isCutOff: deps.isCutOff,
    wanLimits: deps.wanLimits,
    onRefused: (url, error) => {
      deps.onRefused(url, error);
      log.warn({ upstream: url, code: error.code, ...error.data }, 'an upstream gave a wrong chunk');
    },
    onReceived: lengthBytes => metrics.received('chunks', lengthBytes),
  });
  if (siteNode) await serveDevices(deps, siteNode, pipeline);
  const { budget, upload } = await openUpload(deps, pipeline);
  const flush = async (): Promise<void> => {
    await disk.flush();
    await budget?.save();
  };
  const siteWays = new SiteWays({
    set: () => deps.mirror.current,
    devicesOf: product => deps.devices.of(product),
    runningOf: id => deps.devices.runningOf(id),
    local: target => deps.targets.local(target),
    fetch: deps.fetchTarget,
    cache: disk,
  });
  const prefetch = settings.prefetch && openPrefetch(deps, { disk, pipeline, deviceChunks, siteWays });
  return {
    disk,
    deviceChunks,
    pipeline,
    upload,
    flush,
    siteWays,
    // Their names are part of the log.
    tasks: {
      ...(prefetch && { prefetch: (signal: AbortSignal) => prefetch.run(signal) }),
      ...(deviceChunks && { askDevices: (signal: AbortSignal) => deviceChunks.run(signal) }),
      keepCache: (signal: AbortSignal) => keepCache({ disk, flush }, log, signal),
    },
  };
}

function openDeviceChunks(
  { ownId, mirror, targets, peerGateways, devices, site, metrics, patience, log }: ChunkServicesDeps,
  { siteNode, disk }: { siteNode: SiteNode; disk: DiskCache },
): DeviceChunks {
  return new DeviceChunks({
    node: siteNode,
    tracker: site.tracker,
    indexBytes: async image => {
      const target = indexTargetOf(mirror.current?.targets.values() ?? [], image);
      return target && targets.local(target);
    },
    cache: disk,
    credential: () => credentialOf({ ownId, site }),
    siteGateways: () => 1 + peerGateways.liveCount,
    nameOf: id => devices.nameOf(id),
    onRefused: code => metrics.refused('a device of the site', code),
    patience,
    log,
  });
}

/** The credential that this gateway shows: its assignment, as the origin signed it. */
async function credentialOf({
  ownId,
  site,
}: Pick<ChunkServicesDeps, 'ownId' | 'site'>): Promise<Uint8Array | undefined> {
  if ((await site.own.site()) === undefined || site.isRevoked(ownId)) return undefined;
  const envelope = await site.assignments.get(ownId, { isForwarded: true });
  return envelope && Buffer.from(JSON.stringify(envelope));
}

function neighboursStore(deps: ChunkServicesDeps): ChunkStore | undefined {
  const neighbours = deps.fleetNetwork?.neighbours;
  return (
    neighbours &&
    neighbourChunks({
      neighbours: () => neighbours.ids().map(id => neighbours.source(id)),
      credential: () => credentialOf(deps),
      log: deps.log,
    })
  );
}

async function openUpload(
  { ownId, settings, records, mirror, allowlist, site, wanLimits, metrics, now, log }: ChunkServicesDeps,
  pipeline: ChunkPipeline,
): Promise<{ budget: DailyBudget | undefined; upload: NeighbourUpload }> {
  const { fleetUpload } = settings;
  const budget =
    fleetUpload === undefined
      ? undefined
      : await DailyBudget.open({
          maxBytes: fleetUpload,
          maxTotalBytes: UPLOADS * fleetUpload,
          records: records('fleet-upload'),
          now,
          log,
        });
  const upload = neighbourUpload({
    chunks: {
      isOrdered: id => allowlist.isOrdered(id),
      atOnce: (id, hex) => pipeline.atOnce(id, hex),
      forNeighbours: pipeline.forNeighbours,
    },
    budget,
    signers: site.signers,
    issuedMs: () => mirror.current?.issuedMs,
    isRevoked: site.isRevoked,
    isOwnRevoked: () => site.isRevoked(ownId),
    wanLimits,
    onSent: lengthBytes => metrics.sentUpstream(lengthBytes),
    now,
    log,
  });
  return { budget, upload };
}

function indexTargetOf(targets: Iterable<FoundTarget>, sha256: string): FoundTarget | undefined {
  for (const target of targets)
    if (target.file.hashes.sha256 === sha256 && target.name.endsWith('.caibx')) return target;
  return undefined;
}

/** Serves stored chunks to devices over libp2p. Nothing is fetched for them, so no device can make this gateway use its WAN that way. */
async function serveDevices(
  { ownId, mirror, site, metrics }: ChunkServicesDeps,
  siteNode: SiteNode,
  pipeline: ChunkPipeline,
): Promise<void> {
  const mayServe = admission({
    site: () => site.own.site(),
    signers: site.signers,
    issuedMs: () => mirror.current?.issuedMs,
    assignmentOf: id => site.assignments.known(id),
    isRevoked: site.isRevoked,
    isOwnRevoked: () => site.isRevoked(ownId),
  });
  await siteNode.serve({
    store: pipeline.here,
    mayServe: async (id, credential) => {
      const isAdmitted = await mayServe(id, credential);
      if (isAdmitted) site.heard.note(id);
      return isAdmitted;
    },
    onServed: lengthBytes => metrics.sent('peers', lengthBytes),
  });
}

function openPrefetch(
  { settings, mirror, targets, fetchTarget, devices, wanLimits, now, log }: ChunkServicesDeps,
  from: {
    disk: DiskCache;
    pipeline: ChunkPipeline;
    deviceChunks: DeviceChunks | undefined;
    siteWays: SiteWays;
  },
): Prefetch {
  const { disk, pipeline, deviceChunks, siteWays } = from;
  return new Prefetch({
    set: () => mirror.current,
    devicesOf: product => devices.of(product),
    runningOf: id => devices.runningOf(id),
    local: target => targets.local(target),
    fetch: fetchTarget,
    siteWays,
    cache: disk,
    chunks: pipeline.forDevices,
    isAllowed: id => pipeline.isAllowed(id),
    isBusy: () => pipeline.isBusy(),
    mayPrefetch: () => wanLimits.mayPrefetch,
    isPaced: () => wanLimits.isPaced,
    isTooEarly: (image, count) => deviceChunks?.isTooEarly(image, count) ?? false,
    cacheBytes: settings.cacheBytes,
    now,
    log,
  });
}

async function keepCache(
  { disk, flush }: { disk: DiskCache; flush: () => Promise<void> },
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  const adopted = await disk.adopt(signal);
  if (adopted > 0) log.info({ adopted }, 'cached chunks without a record were taken in');
  while (await sleep(FLUSH_EVERY_MS, signal)) await flush();
}
