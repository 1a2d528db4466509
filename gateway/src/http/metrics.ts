import type { MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client';
import type { ChunkCounts } from '../chunk-pipeline.ts';
import type { DatabaseState } from '@sitecast/shared/key-value';
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

  refused(upstream: string, code: string): void {
    this.#refused.inc({ upstream, code });
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
    this.#watchChunks(source);
    this.#watchSharing(source);
    this.#watchMirror(source);
    this.#watchDisk(source);
    this.#watchDropped(source);
    this.#gauge('sitecast_outbox_reports', 'Reports that wait for the origin.', () => source.queue().length);
    this.#gauge('sitecast_outbox_bytes', 'Their weight, about.', () => source.queue().bytes);
    this.#gauge(
      'sitecast_outbox_rejected',
      'Reports that the origin refused, kept.',
      () => source.queue().deadLetters,
    );
    this.#gauge(
      'sitecast_reports_over_budget_total',
      'Reports that were put off: their device has sent as much as it may for now.',
      source.reportsOverBudget,
    );
    this.#gauge(
      'sitecast_tracked_peers',
      'Devices that told lately which chunks they hold.',
      source.trackedPeers,
    );
    this.#gauge(
      'sitecast_heard_devices',
      'Devices of the site that have signed something in the last three minutes.',
      source.heardDevices,
    );
    this.#gauge(
      'sitecast_linked_devices',
      'Devices that are asked just now for chunks that they hold and this gateway lacks.',
      source.linkedDevices,
    );
    this.#gauge(
      'sitecast_leases',
      'Devices that hold the leave to be down for an update.',
      async () => (await source.heldLeases()).length,
    );
    this.#gauge(
      'sitecast_lease_longest_seconds',
      'How long one of them has held it without a break.',
      async () => {
        const since = (await source.heldLeases()).map(({ sinceMs }) => sinceMs ?? source.now());
        return since.length === 0 ? 0 : (source.now() - Math.min(...since)) / 1000;
      },
    );
    this.#gauge('sitecast_devices', 'Devices that this gateway knows an assignment of.', source.devices);
    this.#gauge('sitecast_enrolled', '1 once this gateway is enrolled.', () => Number(source.isEnrolled()));
    this.#gauge(
      'sitecast_upstream_contact_age_seconds',
      'Since an upstream was last followed; -1 if never.',
      () => {
        const lastMs = source.lastContactMs();
        return lastMs === undefined ? -1 : (source.now() - lastMs) / 1000;
      },
    );
  }

  #watchChunks({ chunkCounts, cache, allowedChunks }: MetricsSource): void {
    const hits = new Gauge({
      name: 'sitecast_chunks_found_total',
      help: 'Chunks asked for, by where they were found.',
      labelNames: ['where'],
      registers: [this.#registry],
      collect() {
        const { memoryHits, diskHits, wanFetches, peerFetched, peerHeld, siteDevices } = chunkCounts();
        this.set({ where: 'memory' }, memoryHits);
        this.set({ where: 'disk' }, diskHits);
        this.set({ where: 'upstream' }, wanFetches);
        this.set({ where: 'siteGateway' }, peerFetched + peerHeld);
        this.set({ where: 'siteDevice' }, siteDevices);
      },
    });
    hits.reset();
    this.#gauge('sitecast_cache_bytes', 'Bytes of cached chunks.', () => cache().usedBytes);
    this.#gauge('sitecast_cache_chunks', 'Cached chunks.', () => cache().count);
    this.#gauge('sitecast_cache_full', '1 while chunks are served without being cached.', () =>
      Number(cache().isFull),
    );
    this.#gauge(
      'sitecast_cache_damaged_total',
      'Cached chunks found damaged, and deleted.',
      () => cache().damaged,
    );
    this.#gauge('sitecast_named_chunks', 'Chunks that mirrored indexes name.', allowedChunks);
  }

  #watchSharing({ chunkCounts, siteGateways, gossipConnections }: MetricsSource): void {
    this.#gauge(
      'sitecast_site_gateways',
      'Gateways of this site that live, this one included.',
      siteGateways,
    );
    this.#gauge(
      'sitecast_chunk_takeovers_total',
      'Chunks fetched in the place of a gateway that was away or silent; each may be a second copy over the WAN.',
      () => chunkCounts().takeovers,
    );
    this.#gauge(
      'sitecast_chunk_disagreements_total',
      "Chunks fetched for another gateway out of this one's turn; each may be a second copy over the WAN.",
      () => chunkCounts().disagreements,
    );
    this.#gauge(
      'sitecast_gossip_connections',
      "Connections in the fleet's network; 0 where it isn't joined.",
      gossipConnections,
    );
  }

  #watchMirror({ mirrorSet, isMirrorComplete, waiters, now }: MetricsSource): void {
    this.#gauge('sitecast_mirror_complete', '1 while a complete, verified set is served.', () =>
      Number(isMirrorComplete()),
    );
    this.#gauge('sitecast_waiting_devices', 'Devices that wait for a new timestamp.', waiters);
    const registers = [this.#registry];
    const versions = new Gauge({
      name: 'sitecast_role_version',
      help: 'Version of a role of the served metadata.',
      labelNames: ['role'],
      registers,
      collect() {
        for (const { role, version } of mirrorSet()?.roles ?? []) this.set({ role }, version);
      },
    });
    const expiry = new Gauge({
      name: 'sitecast_role_expires_in_seconds',
      help: 'Seconds until a role of the served metadata expires; negative afterwards.',
      labelNames: ['role'],
      registers,
      collect() {
        for (const { role, expires } of mirrorSet()?.roles ?? [])
          this.set({ role }, Math.round((Date.parse(expires) - now()) / 1000));
      },
    });
    versions.reset();
    expiry.reset();
  }

  #watchDropped({ dropped }: MetricsSource): void {
    const gauge = new Gauge({
      name: 'sitecast_dropped_total',
      help: 'What made room for others, or found none: connections to a port, and what waited for its turn.',
      labelNames: ['what'],
      registers: [this.#registry],
      collect() {
        for (const [what, count] of Object.entries(dropped())) this.set({ what }, count);
      },
    });
    gauge.reset();
  }

  #watchDisk({ freeBytes, database }: MetricsSource): void {
    this.#gauge('sitecast_disk_free_bytes', "Free on the data directory's file system.", freeBytes);
    this.#gauge(
      'sitecast_database_writable',
      '0 while the database takes nothing, for a write has failed.',
      () => Number(database().trouble === undefined),
    );
    this.#gauge('sitecast_database_damaged', '1 once the database was found damaged while in use.', () =>
      Number(database().damage !== undefined),
    );
    this.#gauge(
      'sitecast_database_reopened_total',
      'Times that the database was opened anew, after a write that failed.',
      () => database().mendedCount,
    );
  }

  #gauge(name: string, help: string, value: () => number | Promise<number>): void {
    const gauge = new Gauge({
      name,
      help,
      registers: [this.#registry],
      async collect() {
        this.set(await value());
      },
    });
    gauge.set(0);
  }
}

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'DELETE']);

function methodLabel(method: string): string {
  return METHODS.has(method) ? method : 'other';
}
