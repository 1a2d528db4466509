import type { DatabaseState } from '@sitecast/shared/key-value';
import type { DataDirectory } from '../adapters/disk/data-directory.ts';
import { openStores } from '../adapters/embedded/stores.ts';
import type { TableStore } from '../adapters/embedded/tables.ts';
import type { Audit, AuditLog } from '../audit/audit.ts';
import { EventLog } from '../events/event-log.ts';
import type { Events, EventStore } from '../events/events.ts';
import type { Deltas } from '../deltas/deltas.ts';
import type { DeltaMaker } from '../deltas/maker-port.ts';
import type { Fleet } from '../fleet/fleet.ts';
import type { BodyPace } from '../http/body.ts';
import type { OriginApp } from '../http/context.ts';
import type { EventStreams } from '../http/event-streams.ts';
import type { TimestampWaiters } from '../http/long-poll.ts';
import type { Leadership } from '../leadership.ts';
import type { Log } from '../log.ts';
import { Repository } from '../repository/repository.ts';
import type { Scrubber } from '../repository/scrubber.ts';
import type { CohortStore } from '../rollouts/cohort-store.ts';
import type { Rollouts } from '../rollouts/rollouts.ts';
import { openOriginServices } from '../origin-services.ts';
import type { ChunkStaging, FileStaging } from '../staging/ports.ts';
import type { Room } from '../room.ts';
import { Tokens } from '../tokens/tokens.ts';
import type { After } from '../upkeep.ts';
import { testMaker } from './deltas.ts';
import { MemoryTables } from './memory-tables.ts';

/** The parts that a test may replace. */
export interface TestOriginOptions {
  /** Opens what the origin stores besides its database. */
  openData: (options: { maxStagedBytes: number; now: () => number; log: Log }) => Promise<DataDirectory>;
  now: () => number;
  acceptedDay?: string;
  elapsedMs?: () => number;
  deltaMaker?: DeltaMaker;
  /** Whether deltas are made when a rollout starts; not if not given. */
  makesDeltas?: boolean;
  scrubBytesPerS?: number;
  /** The database; in memory by default. */
  store?: TableStore;
  after?: After;
  audit?: Audit;
  events?: Events;
  maxStagedBytes?: number;
  maxReportBytes?: number;
  maxBodyMemoryBytes?: number;
  pace?: BodyPace;
  /** Collects the log lines, as `level message`. */
  logged?: string[];
  room?: Room;
  /** Whether the origin has the lead; it does if not given. */
  leadership?: Leadership;
  state?: DatabaseState;
}

/** An origin without a socket. Opening a second one on the same data is a restart. */
export interface TestOrigin {
  app: OriginApp;
  repository: Repository;
  /** It isn't started. */
  scrubber: Scrubber;
  chunks: ChunkStaging;
  staged: FileStaging;
  tokens: Tokens;
  adminToken: string;
  fleet: Fleet;
  audit: AuditLog;
  rollouts: Rollouts;
  /** They aren't started. */
  deltas: Deltas;
  cohortStore: CohortStore;
  waiters: TimestampWaiters;
  events: EventLog;
  eventStreams: EventStreams;
  close(): Promise<void>;
}

export async function openTestOrigin(options: TestOriginOptions): Promise<TestOrigin> {
  const {
    openData,
    now,
    maxStagedBytes = 2 ** 30,
    maxReportBytes = 2 ** 30,
    maxBodyMemoryBytes,
    pace,
    logged,
    room,
    leadership,
    state = { trouble: undefined, damage: undefined, mendedCount: 0 },
    store = new MemoryTables(),
    after = realAfter,
    deltaMaker,
    makesDeltas,
  } = { room: AMPLE_ROOM, leadership: LEAD, deltaMaker: testMaker(), makesDeltas: false, ...options };
  const log = testLog(logged);
  const data = await openData({ maxStagedBytes, now, log });
  const { audit, tokenStore, fleetStore, cohortStore } = await openStores(store, now);
  const tokens = new Tokens(tokenStore, now);
  // The time that passes on a test's clock counts as running time of the origin.
  const { acceptedDay, scrubBytesPerS = 0, elapsedMs = now } = options;
  const repository = await Repository.open({ ...data, now, elapsedMs, acceptedDay, log });
  const events = new EventLog(now);
  const services = await openOriginServices(
    {
      ...data,
      repository,
      fleetStore,
      cohortStore,
      tokens,
      audit: options.audit ? watchedAudit(audit, options.audit) : audit,
      events: options.events ? watchedEvents(events, options.events) : events,
      leadership,
      room,
      state,
      deltaMaker,
      gossipAddresses: () => [],
      now,
      after,
      log,
    },
    {
      maxReportBytes,
      scrubBytesPerS,
      makesDeltas,
      ...(pace && { pace }),
      ...(maxBodyMemoryBytes !== undefined && { maxBodyMemoryBytes }),
    },
  );
  const { token: adminToken } = await tokens.create({
    name: tokens.size === 0 ? 'test' : `test ${tokens.size + 1}`,
    role: 'admin',
  });
  return { ...data, ...services, cohortStore, repository, tokens, audit, adminToken, events };
}

/** Stores nothing. Entries go to the test only. */
const watchedAudit = (audit: AuditLog, watching: Audit): AuditLog => ({
  record: (...recorded) => watching.record(...recorded),
  get head() {
    return audit.head;
  },
  find: (after, limit, filter) => audit.find(after, limit, filter),
});

/** Stores nothing. Events go to the test only. */
const watchedEvents = (events: EventStore, watching: Events): EventStore => ({
  emit: event => watching.emit(event),
  get newest() {
    return events.newest;
  },
  idOf: seq => events.idOf(seq),
  resumable: id => events.resumable(id),
  after: (seq, limit) => events.after(seq, limit),
  onEvent: listener => events.onEvent(listener),
});

const LEAD: Leadership = { isHeld: true, release: async () => {} };

const AMPLE_ROOM: Room = {
  freeBytes: async () => Number.POSITIVE_INFINITY,
  reserveBytes: 0,
  path: '/data',
};

const realAfter: After = (delayMs, act) => {
  const timer = setTimeout(act, delayMs).unref();
  return () => clearTimeout(timer);
};

/** A log that collects `level message` for a test, and is silent otherwise. */
export function testLog(logged: string[] = []): Log {
  const at = (level: string) => (_fields: object, message: string) => {
    logged.push(`${level} ${message}`);
  };
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}
