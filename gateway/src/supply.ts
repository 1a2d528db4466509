import type { SitecastError } from '@sitecast/shared/errors';
import type { FoundTarget } from '@sitecast/shared/trust';
import { sleep } from '@sitecast/shared/async';
import { ChunkCache } from './chunks/disk-cache.ts';
import { ChunkService, MAX_UPSTREAM_FETCHES } from './chunks/chunk-service.ts';
import { FrameMemory } from './chunks/memory-cache.ts';
import type { ChunkAllowlist } from './chunks/allowlist.ts';
import { wanStores } from './chunks/wan-store.ts';
import type { Log } from './log.ts';
import type { Mirror } from './mirror/mirror.ts';
import type { TargetFiles } from './mirror/target-files.ts';
import type { GatewayParts } from './parts.ts';
import { DeviceChunks } from './devices/device-chunks.ts';
import { admission, chunksHere } from './devices/served-chunks.ts';
import { parseUpstreamUrl } from './settings.ts';
import { PeerGateways } from './peer-gateways/peer-gateways.ts';
import { SiteStores } from './peer-gateways/shared-fetching.ts';
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
  const { chunks, counts } = openChunks(parts, mirrored.named, { cache, peerGateways, fromDevices });
  const mayServe = admission({
    site: () => site.own.site(),
    signers: () => mirrored.mirror.current?.rolloutsSigners,
    assignmentOf: id => site.assignments.known(id),
    isRevoked: site.isRevoked,
    isOwnRevoked: () => site.isRevoked(parts.identity.id),
  });
  await siteNode?.serve({
    store: chunksHere({ chunks, cache }),
    mayServe: async (id, credential) => {
      const isAdmitted = await mayServe(id, credential);
      if (isAdmitted) site.heard.note(id);
      return isAdmitted;
    },
    onServed: lengthBytes => metrics.sent('peers', lengthBytes),
  });
  const tasks: Record<string, Task> = {
    knowSiblings: signal => peerGateways.run(signal),
    ...prefetchTask(parts, { mirrored, site }, { cache, chunks, fromDevices }),
    ...(fromDevices && { askDevices: (signal: AbortSignal) => fromDevices.run(signal) }),
    keepCache: signal => keepCache(cache, log, signal),
  };
  return { peerGateways, cache, chunks, counts, fromDevices, tasks };
}

function openCache(
  { frames, records, settings, now, log }: GatewayParts,
  named: ChunkAllowlist,
): Promise<ChunkCache> {
  return ChunkCache.open({
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
  from: { cache: ChunkCache; peerGateways: PeerGateways; fromDevices: DeviceChunks | undefined },
) {
  const { cache, peerGateways, fromDevices } = from;
  const onRefused = (url: string, error: SitecastError): void => {
    metrics.refused(url, error.code);
    log.warn({ upstream: url, code: error.code, ...error.data }, 'an upstream gave a wrong chunk');
  };
  const memory = new FrameMemory(settings.memoryBytes);
  let wanFetches = 0;
  const { wan, origin } = wanStores({
    upstreams,
    memory,
    demandOpen: () => wanLimits.demandOpen(),
    onRefused,
    onFetched: lengthBytes => {
      wanFetches += 1;
      metrics.received('chunks', lengthBytes);
    },
  });
  const stores = new SiteStores({
    ownId: identity.id,
    peerGateways,
    fromDevices: fromDevices && ((id, request) => fromDevices.get(id, request)),
    wan,
    origin,
  });
  const chunks = new ChunkService({
    named,
    cache,
    forDevices: stores.forDevices,
    forGateways: stores.forGateways,
    memory,
    fetchesAtOnce: wanLimits.fetchesAtOnce(MAX_UPSTREAM_FETCHES),
  });
  const counts = () => ({ ...chunks.counts, ...stores.counts, wanFetches });
  return { chunks, counts };
}

function openDeviceChunks(
  { identity, metrics, patience, log }: GatewayParts,
  { mirrored: { mirror, targets }, site }: Rooms,
  at: { siteNode: NonNullable<GatewayParts['siteNode']>; cache: ChunkCache; peerGateways: PeerGateways },
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
  to: { cache: ChunkCache; chunks: ChunkService; fromDevices: DeviceChunks | undefined },
): Record<string, Task> {
  if (!settings.prefetch) return {};
  const prefetch = new Prefetch({
    set: () => mirror.current,
    devicesOf: product => devices.of(product),
    local: target => targets.local(target),
    cache: to.cache,
    chunks: to.chunks,
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

async function keepCache(cache: ChunkCache, log: Log, signal: AbortSignal): Promise<void> {
  const adopted = await cache.adopt(signal);
  if (adopted > 0) log.info({ adopted }, 'cached chunks without a record were taken in');
  while (await sleep(FLUSH_EVERY_MS, signal)) await cache.flush();
}
