import type { DatabaseState } from '@sitecast/shared/key-value';
import type { MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { ReportIntake } from '../fleet/intake.ts';
import type { PresenceBoard } from '../fleet/presence.ts';
import { secondsLeft } from '../repository/description.ts';
import type { Repository } from '../repository/repository.ts';
import type { Scrubber } from '../repository/scrubber.ts';
import type { Room } from '../room.ts';
import type { ChunkStaging } from '../staging/ports.ts';
import type { OriginEnv } from './context.ts';

const DURATION_BUCKETS_S = [0.002, 0.01, 0.05, 0.25, 1, 5, 30];

interface MetricsDeps {
  repository: Repository;
  scrubber: Scrubber;
  chunks: ChunkStaging;
  state: DatabaseState;
  room: Room;
  fleet: { intake: Pick<ReportIntake, 'totals'>; presence: Pick<PresenceBoard, 'gateways' | 'heardCount'> };
  now: () => number;
}

/** The metrics for Prometheus, at /metrics. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #requests: Counter<'method' | 'route' | 'status'>;
  readonly #durations: Histogram<'route'>;
  readonly #uploadedBytes: Counter;

  constructor(deps: MetricsDeps) {
    const registers = [this.#registry];
    collectDefaultMetrics({ register: this.#registry });
    this.#requests = new Counter({
      name: 'sitecast_http_requests_total',
      help: 'Requests answered.',
      labelNames: ['method', 'route', 'status'],
      registers,
    });
    this.#durations = new Histogram({
      name: 'sitecast_http_request_duration_seconds',
      help: "Time from a request's head to the head of its answer.",
      labelNames: ['route'],
      buckets: DURATION_BUCKETS_S,
      registers,
    });
    this.#uploadedBytes = new Counter({
      name: 'sitecast_uploaded_bytes_total',
      help: 'Bytes of chunk uploads received.',
      registers,
    });
    for (const gauge of [...gaugesOf(deps), ...diskGaugesOf(deps), ...presenceGaugesOf(deps)])
      this.#registry.registerMetric(gauge);
    for (const metric of [...damageMetrics(deps), ...reportMetrics(deps)])
      this.#registry.registerMetric(metric);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }

  uploaded(lengthBytes: number): void {
    this.#uploadedBytes.inc(lengthBytes);
  }

  /** Counts and times every request, under the pattern of its route, because any client can choose the path. */
  middleware(): MiddlewareHandler<OriginEnv> {
    return async (c, next) => {
      const begin = performance.now();
      await next();
      const route = routePath(c, -1);
      this.#requests.inc({ method: methodLabel(c.req.method), route, status: String(c.res.status) });
      this.#durations.observe({ route }, (performance.now() - begin) / 1000);
    };
  }
}

/** Gauges that read their values when they are scraped. */
function gaugesOf({ repository, chunks, now }: MetricsDeps): Gauge[] {
  return [
    new Gauge({
      name: 'sitecast_staged_bytes',
      help: 'Bytes of chunks uploaded that nothing refers to yet.',
      registers: [],
      async collect() {
        this.set((await chunks.totals()).bytes);
      },
    }),
    new Gauge({
      name: 'sitecast_staged_chunks',
      help: 'Chunks uploaded that nothing refers to yet.',
      registers: [],
      async collect() {
        this.set((await chunks.totals()).chunks);
      },
    }),
    new Gauge({
      name: 'sitecast_role_expires_in_seconds',
      help: 'Seconds until a role of the published metadata expires; negative afterwards.',
      labelNames: ['role'],
      registers: [],
      collect() {
        for (const [role, seconds] of Object.entries(secondsLeft(repository, now())))
          this.set({ role }, seconds);
      },
    }),
    new Gauge({
      name: 'sitecast_role_version',
      help: 'Version of a role of the published metadata.',
      labelNames: ['role'],
      registers: [],
      collect() {
        for (const [role, version] of Object.entries(repository.versions())) this.set({ role }, version);
      },
    }),
  ];
}

function diskGaugesOf({ state, room }: MetricsDeps): Gauge[] {
  const gauge = (name: string, help: string, value: () => number | Promise<number>): Gauge =>
    new Gauge({
      name,
      help,
      registers: [],
      async collect() {
        this.set(await value());
      },
    });
  return [
    gauge('sitecast_disk_free_bytes', "Free on the data directory's file system.", () => room.freeBytes()),
    gauge(
      'sitecast_disk_reserve_bytes',
      'Of these, what uploads and reports leave alone.',
      () => room.reserveBytes,
    ),
    gauge('sitecast_database_writable', '0 while the database takes nothing, for a write has failed.', () =>
      Number(state.trouble === undefined),
    ),
    gauge('sitecast_database_damaged', '1 once the database was found damaged while in use.', () =>
      Number(state.damage !== undefined),
    ),
    gauge(
      'sitecast_database_reopened_total',
      'Times that the database was opened anew, after a write that failed.',
      () => state.mendedCount,
    ),
  ];
}

const gauge = (name: string, help: string, value: () => number): Gauge =>
  new Gauge({
    name,
    help,
    registers: [],
    collect() {
      this.set(value());
    },
  });
const counter = (name: string, help: string, value: () => number): Counter =>
  new Counter({
    name,
    help,
    registers: [],
    collect() {
      this.reset();
      this.inc(value());
    },
  });

/** The kept reports, and deferred reports. */
function reportMetrics({ fleet: { intake } }: MetricsDeps): (Gauge | Counter)[] {
  return [
    gauge(
      'sitecast_kept_report_bytes',
      "Bytes of devices' reports that are kept.",
      () => intake.totals.keptBytes,
    ),
    gauge(
      'sitecast_kept_report_bytes_max',
      'Of how many at most: beyond it the oldest of those who have the most make way.',
      () => intake.totals.maxKeptBytes,
    ),
    counter('sitecast_dropped_reports_total', 'Older reports that made way.', () => intake.totals.dropped),
    counter(
      'sitecast_reports_over_budget_total',
      'Reports that were put off: their device has sent as much as it may for now.',
      () => intake.totals.putOffs,
    ),
  ];
}

/** Heard and silent members, by the reports of gateways. */
function presenceGaugesOf({ fleet: { presence } }: MetricsDeps): Gauge[] {
  return [
    new Gauge({
      name: 'sitecast_gateways',
      help: 'Gateways that are heard, silent, or never said whom they hear.',
      labelNames: ['presence'],
      registers: [],
      collect() {
        for (const [state, count] of Object.entries(presence.gateways().counts))
          this.set({ presence: state }, count);
      },
    }),
    new Gauge({
      name: 'sitecast_heard_devices',
      help: 'Devices that live gateways hear.',
      registers: [],
      collect() {
        this.set(presence.heardCount);
      },
    }),
  ];
}

/** Damage of published files on the disk. */
function damageMetrics({ repository: { damage }, scrubber }: MetricsDeps): (Gauge | Counter)[] {
  return [
    gauge('sitecast_lost_chunks', 'Chunks that published releases lack.', () => damage.chunks),
    gauge('sitecast_lost_files', 'Published files that are damaged or lost.', () => damage.files),
    gauge(
      'sitecast_scrub_completed_timestamp_seconds',
      'When all published chunks had been read back; 0 before the first time.',
      () => (scrubber.completedMs ?? 0) / 1000,
    ),
    counter(
      'sitecast_damaged_chunks_total',
      'Published chunks that were found damaged.',
      () => damage.foundChunks,
    ),
    counter(
      'sitecast_damaged_files_total',
      'Published files that were found damaged or lost.',
      () => damage.foundFiles,
    ),
    counter(
      'sitecast_scrub_read_bytes_total',
      'Bytes of published chunks read back.',
      () => scrubber.readBytes,
    ),
  ];
}

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'DELETE']);

function methodLabel(method: string): string {
  return METHODS.has(method) ? method : 'other';
}
