import { sleep } from '@sitecast/shared/async';
import type { SitecastError } from '@sitecast/shared/errors';
import type { FoundTarget } from '@sitecast/shared/trust';
import { DiskCache } from './chunks/disk-cache.ts';
import { type ChunkPipeline, openChunkPipeline } from './chunk-pipeline.ts';
import type { ChunkAllowlist } from './chunks/allowlist.ts';
import type { Log } from './log.ts';
import type { Mirror } from './mirror/mirror.ts';
import type { TargetFiles } from './mirror/target-files.ts';
import type { GatewayParts } from './parts.ts';
import { DeviceChunks } from './devices/device-chunks.ts';
import { admission } from './devices/admission.ts';
import { parseUpstreamUrl } from './settings.ts';
import { PeerGateways } from './peer-gateways/peer-gateways.ts';
import type { openSite } from './site.ts';
import { Prefetch } from './wan/prefetch.ts';

/** How often the order of uses in the chunk cache is written down. */
const FLUSH_EVERY_MS = 10_000;

type Task = (signal: AbortSignal) => Promise<void>;

interface Rooms {
  mirrored: { mirror: Mirror; targets: TargetFiles; named: ChunkAllowlist };
  site: Awaited<ReturnType<typeof openSite>>;
}

/** Where chunks come from, and how they go out: disk, the site's other gateways and devices, the WAN. */
export async function openSupply(parts: GatewayParts, { mirrored, site }: Rooms) {
  const { siteNode, wanLimits, metrics, log } = parts;
  const peerGateways = openPeerGateways(parts, site);
  wanLimits.sharers = () => 1 + peerGateways.liveCount;
  const cache = await openCache(parts, mirrored.named);
  const fromDevices =
    siteNode && openDeviceChunks(parts, { mirrored, site }, { siteNode, cache, peerGateways });
  const pipeline = openChunks(parts, mirrored.named, { cache, peerGateways, fromDevices });
  const mayServe = admission({
    site: () => site.own.site(),
    signers: () => mirrored.mirror.current?.rolloutsSigners,
    assignmentOf: id => site.assignments.known(id),
    isRevoked: site.isRevoked,
    isOwnRevoked: () => site.isRevoked(parts.identity.id),
  });
  await siteNode?.serve({
    store: pipeline.here,
    mayServe: async (id, credential) => {
      const isAdmitted = await mayServe(id, credential);
      if (isAdmitted) site.heard.note(id);
      return isAdmitted;
    },
    onServed: lengthBytes => metrics.sent('peers', lengthBytes),
  });
  const tasks: Record<string, Task> = {
    knowSiblings: signal => peerGateways.run(signal),
    ...prefetchTask(parts, { mirrored, site }, { cache, pipeline, fromDevices }),
    ...(fromDevices && { askDevices: (signal: AbortSignal) => fromDevices.run(signal) }),
    keepCache: signal => keepCache(cache, log, signal),
  };
  return { peerGateways, cache, pipeline, fromDevices, tasks };
}

function openCache(
  { frames, records, settings, now, log }: GatewayParts,
  named: ChunkAllowlist,
): Promise<DiskCache> {
  return DiskCache.open({
    files: frames,
    records: records('chunks'),
    isPinned: id => named.isPinned(id),
    maxBytes: settings.cacheBytes,
    reserveBytes: settings.reserve,
    now,
    log,
  });
}

function openChunks(
  { identity, settings, upstreams, wanLimits, metrics, log }: GatewayParts,
  named: ChunkAllowlist,
  from: { cache: DiskCache; peerGateways: PeerGateways; fromDevices: DeviceChunks | undefined },
): ChunkPipeline {
  const { cache, peerGateways, fromDevices } = from;
  const onRefused = (url: string, error: SitecastError): void => {
    metrics.refused(url, error.code);
    log.warn({ upstream: url, code: error.code, ...error.data }, 'an upstream gave a wrong chunk');
  };
  return openChunkPipeline({
    ownId: identity.id,
    memoryBytes: settings.memoryBytes,
    disk: cache,
    allowlist: named,
    peerGateways,
    deviceChunks: fromDevices,
    upstreams,
    wanLimits,
    onRefused,
    onReceived: lengthBytes => metrics.received('chunks', lengthBytes),
  });
}

function openDeviceChunks(
  { identity, metrics, patience, log }: GatewayParts,
  { mirrored: { mirror, targets }, site }: Rooms,
  at: { siteNode: NonNullable<GatewayParts['siteNode']>; cache: DiskCache; peerGateways: PeerGateways },
): DeviceChunks {
  return new DeviceChunks({
    node: at.siteNode,
    tracker: site.tracker,
    indexBytes: async image => {
      const target = indexTargetOf(mirror.current?.targets.values() ?? [], image);
      return target && targets.local(target);
    },
    cache: at.cache,
    credential: async () => {
      if ((await site.own.site()) === undefined || site.isRevoked(identity.id)) return undefined;
      const envelope = await site.assignments.get(identity.id, { isForwarded: true });
      return envelope && Buffer.from(JSON.stringify(envelope));
    },
    siteGateways: () => 1 + at.peerGateways.liveCount,
    nameOf: id => site.devices.nameOf(id),
    onRefused: code => metrics.refused('a device of the site', code),
    patience,
    log,
  });
}

function indexTargetOf(targets: Iterable<FoundTarget>, sha256: string): FoundTarget | undefined {
  for (const target of targets)
    if (target.file.hashes.sha256 === sha256 && target.name.endsWith('.caibx')) return target;
  return undefined;
}

function prefetchTask(
  { settings, wanLimits, log }: GatewayParts,
  { mirrored: { mirror, targets }, site: { devices } }: Rooms,
  to: { cache: DiskCache; pipeline: ChunkPipeline; fromDevices: DeviceChunks | undefined },
): Record<string, Task> {
  if (!settings.prefetch) return {};
  const prefetch = new Prefetch({
    set: () => mirror.current,
    devicesOf: product => devices.of(product),
    local: target => targets.local(target),
    cache: to.cache,
    chunks: to.pipeline.forDevices,
    isAllowed: id => to.pipeline.isAllowed(id),
    isBusy: () => to.pipeline.isBusy(),
    mayPrefetch: () => wanLimits.mayPrefetch,
    isTooEarly: (image, count) => to.fromDevices?.isTooEarly(image, count) ?? false,
    cacheBytes: settings.cacheBytes,
    log,
  });
  return { prefetch: signal => prefetch.run(signal) };
}

function openPeerGateways(
  { identity, settings, book, peerGatewayClient, log }: GatewayParts,
  { devices, isRevoked }: Rooms['site'],
): PeerGateways {
  return new PeerGateways({
    ownId: identity.id,
    site: () => devices.site,
    book,
    configured: (settings.siteGateway ?? []).map(parseUpstreamUrl),
    isRevoked,
    port: peerGatewayClient,
    log,
  });
}

async function keepCache(cache: DiskCache, log: Log, signal: AbortSignal): Promise<void> {
  const adopted = await cache.adopt(signal);
  if (adopted > 0) log.info({ adopted }, 'cached chunks without a record were taken in');
  while (await sleep(FLUSH_EVERY_MS, signal)) await cache.flush();
}
