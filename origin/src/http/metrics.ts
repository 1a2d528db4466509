import type { DatabaseState } from '@sitecast/shared/key-value';
import { buildInfo, readCounter, readFailure, readGauge } from '@sitecast/shared/metrics';
import type { MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import { collectDefaultMetrics, Counter, Histogram, type Metric, Registry } from 'prom-client';
import type { ReportIntake } from '../fleet/intake.ts';
import type { PresenceBoard } from '../fleet/presence.ts';
import type { Registry as FleetRegistry } from '../fleet/registry.ts';
import { secondsLeft } from '../repository/description.ts';
import type { AuditLog } from '../audit/audit.ts';
import type { AuditSelfCheck } from '../audit/self-check.ts';
import type { Repository } from '../repository/repository.ts';
import type { Scrubber } from '../repository/scrubber.ts';
import type { Rollouts } from '../rollouts/rollouts.ts';
import type { Room } from '../room.ts';
import type { ChunkStaging } from '../staging/ports.ts';
import type { OriginEnv } from './context.ts';
import { type Log, RecurringErrors } from '../log.ts';
import { rolloutMetrics } from './rollout-metrics.ts';

const DURATION_BUCKETS_S = [0.002, 0.01, 0.05, 0.25, 1, 5, 30];

interface MetricsDeps {
  repository: Repository;
  scrubber: Scrubber;
  chunks: ChunkStaging;
  state: DatabaseState;
  room: Room;
  audit: Pick<AuditLog, 'head'>;
  auditCheck: Pick<AuditSelfCheck, 'isBroken'>;
  rollouts: Pick<Rollouts, 'standings' | 'list'>;
  fleet: {
    intake: Pick<ReportIntake, 'totals' | 'counted'>;
    presence: Pick<PresenceBoard, 'gateways' | 'heardCount' | 'silentCount'>;
    registry: Pick<FleetRegistry, 'population'>;
  };
  now: () => number;
  log: Log;
}

/** The metrics for Prometheus, at /metrics. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #requests: Counter<'method' | 'route' | 'status'>;
  readonly #durations: Histogram<'route'>;
  readonly #uploadedBytes: Counter;
  /** Those that are read at a scrape. */
  readonly #read: readonly Metric[];
  readonly #errors: RecurringErrors;

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
    this.#errors = new RecurringErrors(deps.log);
    this.#read = [
      buildInfo(),
      ...repositoryMetrics(deps),
      ...diskMetrics(deps),
      ...fleetMetrics(deps),
      ...rolloutMetrics(deps),
      ...damageMetrics(deps),
      ...reportMetrics(deps),
    ];
    for (const metric of this.#read) this.#registry.registerMetric(metric);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** What can't be read is left out, and logged. */
  async text(): Promise<string> {
    const text = await this.#registry.metrics();
    const error = readFailure(this.#read);
    if (error === undefined) this.#errors.succeeded('metrics');
    else this.#errors.failed('metrics', error, 'some metrics cannot be read: /metrics leaves them out');
    return text;
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

const repositoryMetrics = ({ repository, chunks, audit, auditCheck, now }: MetricsDeps): Metric[] => [
  readGauge(
    'sitecast_staged_bytes',
    'Bytes of chunks uploaded that nothing refers to yet.',
    async () => (await chunks.totals()).bytes,
  ),
  readGauge(
    'sitecast_staged_chunks',
    'Chunks uploaded that nothing refers to yet.',
    async () => (await chunks.totals()).chunks,
  ),
  readGauge(
    'sitecast_role_expires_in_seconds',
    'Seconds until a role of the published metadata expires; negative afterwards.',
    () => Object.entries(secondsLeft(repository, now())).map(([role, seconds]) => [{ role }, seconds]),
    ['role'],
  ),
  readGauge(
    'sitecast_role_version',
    'Version of a role of the published metadata.',
    () => Object.entries(repository.versions()).map(([role, version]) => [{ role }, version]),
    ['role'],
  ),
  readGauge('sitecast_audit_sequence', 'Number of the last entry of the audit log.', () => audit.head.seq),
  readGauge(
    'sitecast_audit_broken',
    "1 once the audit log's chain was found broken, or an entry unreadable; it is read every 6 hours, every hour while it is 1.",
    () => Number(auditCheck.isBroken),
  ),
  readGauge('sitecast_clock_seconds', 'What time it is by the clock of this process.', () => now() / 1000),
];

const diskMetrics = ({ state, room }: MetricsDeps): Metric[] => [
  readGauge('sitecast_disk_free_bytes', "Free on the data directory's file system.", () => room.freeBytes()),
  readGauge(
    'sitecast_disk_reserve_bytes',
    'Of these, what uploads and reports leave alone.',
    () => room.reserveBytes,
  ),
  readGauge('sitecast_database_writable', '0 while the database takes nothing, for a write has failed.', () =>
    Number(state.trouble === undefined),
  ),
  readGauge('sitecast_database_damaged', '1 once the database was found damaged while in use.', () =>
    Number(state.damage !== undefined),
  ),
  readCounter(
    'sitecast_database_reopened_total',
    'Times that the database was opened anew, after a write that failed.',
    () => state.mendedCount,
  ),
];

const reportMetrics = ({ fleet: { intake } }: MetricsDeps): Metric[] => [
  readCounter(
    'sitecast_reports_accepted_total',
    'Reports that were taken in, and are durable.',
    () => intake.counted.accepted,
  ),
  readCounter(
    'sitecast_reports_refused_total',
    'Reports that were refused, by the code of the refusal.',
    () => Array.from(intake.counted.refused, ([code, count]) => [{ code }, count]),
    ['code'],
  ),
  readGauge(
    'sitecast_kept_report_bytes',
    "Bytes of devices' reports that are kept.",
    () => intake.totals.keptBytes,
  ),
  readGauge(
    'sitecast_kept_report_bytes_max',
    'Of how many at most: beyond it the oldest of those who have the most make way.',
    () => intake.totals.maxKeptBytes,
  ),
  readCounter('sitecast_dropped_reports_total', 'Older reports that made way.', () => intake.totals.dropped),
  readCounter(
    'sitecast_reports_over_budget_total',
    'Reports that were put off: their device has sent as much as it may for now.',
    () => intake.totals.putOffs,
  ),
];

/** Heard and silent members, by what gateways tell, and what devices run. */
const fleetMetrics = ({ fleet: { presence, registry }, rollouts }: MetricsDeps): Metric[] => [
  readGauge(
    'sitecast_gateways',
    'Gateways that are heard, silent, or never said whom they hear.',
    () => Object.entries(presence.gateways().counts).map(([state, count]) => [{ presence: state }, count]),
    ['presence'],
  ),
  readGauge('sitecast_heard_devices', 'Devices that live gateways hear.', () => presence.heardCount),
  readGauge(
    'sitecast_silent_devices',
    'Devices of sites whose gateways all live and tell whom they hear, that none of them hears.',
    () => presence.silentCount,
  ),
  readGauge(
    'sitecast_devices',
    "Devices that aren't revoked, by the release that they run as they last reported: the 30 versions that most devices of the product run, `(other)` for more, and for a name that a single device has for what it runs; `(unknown)` where a device hasn't said it.",
    () => {
      const known = new Set(
        rollouts.list().map(({ product, rollout }) => `${product} ${rollout.release.version}`),
      );
      const isKnown = (product: string, version: string): boolean => known.has(`${product} ${version}`);
      return registry.population
        .versions(isKnown)
        .map(({ product, version, devices }) => [{ product, version }, devices]);
    },
    ['product', 'version'],
  ),
];

/** Damage of published files on the disk. */
const damageMetrics = ({ repository: { damage }, scrubber }: MetricsDeps): Metric[] => [
  readGauge('sitecast_lost_chunks', 'Chunks that published releases lack.', () => damage.chunks),
  readGauge('sitecast_lost_files', 'Published files that are damaged or lost.', () => damage.files),
  readGauge(
    'sitecast_scrub_completed_timestamp_seconds',
    'When all published chunks had been read back; 0 before the first time.',
    () => (scrubber.completedMs ?? 0) / 1000,
  ),
  readCounter(
    'sitecast_damaged_chunks_total',
    'Published chunks that were found damaged.',
    () => damage.foundChunks,
  ),
  readCounter(
    'sitecast_damaged_files_total',
    'Published files that were found damaged or lost.',
    () => damage.foundFiles,
  ),
  readCounter(
    'sitecast_scrub_read_bytes_total',
    'Bytes of published chunks read back.',
    () => scrubber.readBytes,
  ),
];

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'DELETE']);

function methodLabel(method: string): string {
  return METHODS.has(method) ? method : 'other';
}
