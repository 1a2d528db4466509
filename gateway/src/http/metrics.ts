import type { MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import { collectDefaultMetrics, Counter, type Metric, Registry } from 'prom-client';
import type { DatabaseState } from '@sitecast/shared/key-value';
import { buildInfo, readCounter, readGauge } from '@sitecast/shared/metrics';
import type { ChunkCounts } from '../chunk-pipeline.ts';
import type { HeldLease } from '../devices/leases.ts';
import type { MirrorSet } from '../mirror/mirror-set.ts';
import type { GatewayEnv } from './context.ts';

/** What is read at each scrape. */
export interface MetricsSource {
  chunkCounts: () => ChunkCounts;
  /** Gateways of this site that live, this one included. */
  siteGateways: () => number;
  /** Connections in the fleet's network. */
  gossipConnections: () => number;
  /** Codes of what is wrong now. */
  troubles: () => readonly string[];
  cache: () => { usedBytes: number; count: number; isFull: boolean; damaged: number };
  allowedChunks: () => number;
  queue: () => { length: number; bytes: number; deadLetters: number };
  /** Reports over their device's budget, since the start. */
  reportsOverBudget: () => number;
  mirrorSet: () => MirrorSet | undefined;
  isMirrorComplete: () => boolean;
  waiters: () => number;
  devices: () => number;
  trackedPeers: () => number;
  /** Devices of the site that have signed or shown something lately. */
  heardDevices: () => number;
  /** Devices that may be down now. */
  heldLeases: () => Promise<HeldLease[]>;
  /** Devices that are asked for chunks now. */
  linkedDevices: () => number;
  /** What made room for others since the start: connections, and requests that waited for their turn. */
  dropped: () => Readonly<Record<string, number>>;
  /** When the upstreams were last reached, milliseconds since 1970. */
  lastContactMs: () => number | undefined;
  isEnrolled: () => boolean;
  /** On the data directory's file system. */
  freeBytes: () => Promise<number>;
  reserveBytes: number;
  database: () => DatabaseState;
  now: () => number;
}

type UpstreamKind = 'metadata' | 'targets' | 'chunks' | 'site';

/** The metrics at /metrics, for Prometheus. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #requests: Counter<'method' | 'route' | 'status'>;
  readonly #wanBytes: Counter<'kind'>;
  readonly #wanSentBytes: Counter;
  readonly #lanBytes: Counter<'kind'>;
  readonly #refused: Counter<'upstream' | 'code'>;
  /** Answers to requests for chunks by status, and the bytes sent in them, since the last scrape. */
  readonly #chunkAnswers = new Map<number, number>();
  #chunkBytes = 0;

  constructor() {
    const registers = [this.#registry];
    collectDefaultMetrics({ register: this.#registry });
    this.#requests = new Counter({
      name: 'sitecast_http_requests_total',
      help: 'Requests answered.',
      labelNames: ['method', 'route', 'status'],
      registers,
    });
    this.#wanBytes = new Counter({
      name: 'sitecast_wan_received_bytes_total',
      help: 'Bytes of files and answers that came from upstream, without protocol overhead.',
      labelNames: ['kind'],
      registers,
    });
    this.#wanSentBytes = new Counter({
      name: 'sitecast_wan_sent_bytes_total',
      help: 'Bytes of reports, progress and enrolments that went upstream, and of chunks for other sites, without protocol overhead.',
      registers,
    });
    this.#lanBytes = new Counter({
      name: 'sitecast_lan_sent_bytes_total',
      help: 'Bytes of files handed out, without protocol overhead.',
      labelNames: ['kind'],
      registers,
    });
    this.#refused = new Counter({
      name: 'sitecast_upstream_refused_total',
      help: 'What upstreams gave and was refused: wrong signatures, hashes, lengths.',
      labelNames: ['upstream', 'code'],
      registers,
    });
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  text(): Promise<string> {
    this.#countChunkAnswers();
    return this.#registry.metrics();
  }

  received(kind: UpstreamKind, lengthBytes: number): void {
    this.#wanBytes.inc({ kind }, lengthBytes);
  }

  sentUpstream(lengthBytes: number): void {
    this.#wanSentBytes.inc(lengthBytes);
  }

  /** @param kind `peers`: chunks that went out over libp2p */
  sent(kind: UpstreamKind | 'peers', lengthBytes: number): void {
    this.#lanBytes.inc({ kind }, lengthBytes);
  }

  /** Gateways of other sites count as one: whoever has the fleet's key can make up ids, and each label would stay. */
  refused(upstream: string, code: string): void {
    const isNeighbour = upstream.startsWith('libp2p:');
    this.#refused.inc({ upstream: isNeighbour ? 'a gateway of another site' : upstream, code });
  }

  /** Labels are looked up at a scrape: for each chunk that would cost more than finding it. */
  chunkAnswered(status: number, sentBytes: number): void {
    this.#chunkAnswers.set(status, (this.#chunkAnswers.get(status) ?? 0) + 1);
    this.#chunkBytes += sentBytes;
  }

  #countChunkAnswers(): void {
    for (const [status, count] of this.#chunkAnswers)
      this.#requests.inc({ method: 'GET', route: '/chunks/:folder/:name', status: String(status) }, count);
    if (this.#chunkBytes > 0) this.sent('chunks', this.#chunkBytes);
    this.#chunkAnswers.clear();
    this.#chunkBytes = 0;
  }

  /** Counts every request under the pattern of its route: any machine can make up paths. */
  middleware(): MiddlewareHandler<GatewayEnv> {
    return async (c, next) => {
      await next();
      const route = routePath(c, -1);
      this.#requests.inc({ method: methodLabel(c.req.method), route, status: String(c.res.status) });
    };
  }

  /** Adds the metrics that are read at each scrape. */
  watch(source: MetricsSource): void {
    const watched = [
      buildInfo(),
      ...reportMetrics(source),
      ...deviceMetrics(source),
      ...chunkMetrics(source),
      ...sharingMetrics(source),
      ...mirrorMetrics(source),
      ...diskMetrics(source),
      troubleMetric(source),
    ];
    for (const metric of watched) this.#registry.registerMetric(metric);
  }
}

const reportMetrics = ({ queue, reportsOverBudget }: MetricsSource): Metric[] => [
  readGauge('sitecast_outbox_reports', 'Reports that wait for the origin.', () => queue().length),
  readGauge('sitecast_outbox_bytes', 'Their weight, about.', () => queue().bytes),
  readGauge('sitecast_outbox_rejected', 'Reports that the origin refused, kept.', () => queue().deadLetters),
  readCounter(
    'sitecast_reports_over_budget_total',
    'Reports that were put off: their device has sent as much as it may for now.',
    reportsOverBudget,
  ),
];

const deviceMetrics = (source: MetricsSource): Metric[] => [
  readGauge(
    'sitecast_tracked_peers',
    'Devices that told lately which chunks they hold.',
    source.trackedPeers,
  ),
  readGauge(
    'sitecast_heard_devices',
    'Devices of the site that have signed something in the last three minutes.',
    source.heardDevices,
  ),
  readGauge(
    'sitecast_linked_devices',
    'Devices that are asked just now for chunks that they hold and this gateway lacks.',
    source.linkedDevices,
  ),
  readGauge(
    'sitecast_leases',
    'Devices that hold the leave to be down for an update.',
    async () => (await source.heldLeases()).length,
  ),
  readGauge(
    'sitecast_lease_longest_seconds',
    'How long one of them has held it without a break.',
    async () => {
      const since = (await source.heldLeases()).map(({ sinceMs }) => sinceMs ?? source.now());
      return since.length === 0 ? 0 : (source.now() - Math.min(...since)) / 1000;
    },
  ),
  readGauge('sitecast_devices', 'Devices that this gateway knows an assignment of.', source.devices),
  readGauge('sitecast_enrolled', '1 once this gateway is enrolled.', () => Number(source.isEnrolled())),
];

const chunkMetrics = ({ chunkCounts, cache, allowedChunks }: MetricsSource): Metric[] => [
  readCounter(
    'sitecast_chunks_found_total',
    'Chunks asked for, by where they were found.',
    () => {
      const { memoryHits, diskHits, wanFetches, peerFetched, peerHeld, siteDevices } = chunkCounts();
      return [
        [{ where: 'memory' }, memoryHits],
        [{ where: 'disk' }, diskHits],
        [{ where: 'upstream' }, wanFetches],
        [{ where: 'siteGateway' }, peerFetched + peerHeld],
        [{ where: 'siteDevice' }, siteDevices],
      ];
    },
    ['where'],
  ),
  readGauge('sitecast_cache_bytes', 'Bytes of cached chunks.', () => cache().usedBytes),
  readGauge('sitecast_cache_chunks', 'Cached chunks.', () => cache().count),
  readGauge('sitecast_cache_full', '1 while chunks are served without being cached.', () =>
    Number(cache().isFull),
  ),
  readCounter(
    'sitecast_cache_damaged_total',
    'Cached chunks found damaged, and deleted.',
    () => cache().damaged,
  ),
  readGauge('sitecast_named_chunks', 'Chunks that mirrored indexes name.', allowedChunks),
];

const sharingMetrics = ({
  chunkCounts,
  siteGateways,
  gossipConnections,
  dropped,
}: MetricsSource): Metric[] => [
  readGauge('sitecast_site_gateways', 'Gateways of this site that live, this one included.', siteGateways),
  readCounter(
    'sitecast_chunk_takeovers_total',
    'Chunks fetched in the place of a gateway that was away or silent; each may be a second copy over the WAN.',
    () => chunkCounts().takeovers,
  ),
  readCounter(
    'sitecast_chunk_disagreements_total',
    "Chunks fetched for another gateway out of this one's turn; each may be a second copy over the WAN.",
    () => chunkCounts().disagreements,
  ),
  readGauge(
    'sitecast_gossip_connections',
    "Connections in the fleet's network; 0 where it isn't joined.",
    gossipConnections,
  ),
  readCounter(
    'sitecast_dropped_total',
    'What made room for others, or found none: connections to a port, and what waited for its turn.',
    () => Object.entries(dropped()).map(([what, count]) => [{ what }, count]),
    ['what'],
  ),
];

const troubleMetric = ({ troubles }: MetricsSource): Metric =>
  readGauge(
    'sitecast_trouble',
    'What people should look at, though this gateway goes on, by its code (docs/ERRORS.md).',
    () => troubles().map(code => [{ code }, 1]),
    ['code'],
  );

const mirrorMetrics = ({
  mirrorSet,
  isMirrorComplete,
  waiters,
  lastContactMs,
  now,
}: MetricsSource): Metric[] => [
  readGauge('sitecast_mirror_complete', '1 while a complete, verified set is served.', () =>
    Number(isMirrorComplete()),
  ),
  readGauge('sitecast_waiting_devices', 'Devices that wait for a new timestamp.', waiters),
  readGauge(
    'sitecast_upstream_contact_age_seconds',
    'Since an upstream was last followed; -1 if never.',
    () => {
      const lastMs = lastContactMs();
      return lastMs === undefined ? -1 : (now() - lastMs) / 1000;
    },
  ),
  readGauge(
    'sitecast_role_version',
    'Version of a role of the served metadata.',
    () => (mirrorSet()?.roles ?? []).map(({ role, version }) => [{ role }, version]),
    ['role'],
  ),
  readGauge(
    'sitecast_role_expires_in_seconds',
    'Seconds until a role of the served metadata expires; negative afterwards.',
    () =>
      (mirrorSet()?.roles ?? []).map(({ role, expires }) => [
        { role },
        Math.round((Date.parse(expires) - now()) / 1000),
      ]),
    ['role'],
  ),
];

const diskMetrics = ({ freeBytes, reserveBytes, database, now }: MetricsSource): Metric[] => [
  readGauge('sitecast_disk_free_bytes', "Free on the data directory's file system.", freeBytes),
  readGauge(
    'sitecast_disk_reserve_bytes',
    'Of these, what chunks leave alone: it is for reports.',
    () => reserveBytes,
  ),
  readGauge('sitecast_clock_seconds', 'What time it is by the clock of this process.', () => now() / 1000),
  readGauge('sitecast_database_writable', '0 while the database takes nothing, for a write has failed.', () =>
    Number(database().trouble === undefined),
  ),
  readGauge('sitecast_database_damaged', '1 once the database was found damaged while in use.', () =>
    Number(database().damage !== undefined),
  ),
  readCounter(
    'sitecast_database_reopened_total',
    'Times that the database was opened anew, after a write that failed.',
    () => database().mendedCount,
  ),
];

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'DELETE']);

function methodLabel(method: string): string {
  return METHODS.has(method) ? method : 'other';
}
