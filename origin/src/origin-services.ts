import { repeat } from '@sitecast/shared/async';
import { fastVerifyById } from '@sitecast/shared/identity';
import type { DatabaseState } from '@sitecast/shared/key-value';
import type { AuditLog } from './audit/audit.ts';
import { AuditSelfCheck } from './audit/self-check.ts';
import type { DeltaWork } from './deltas/delta-work.ts';
import { Deltas } from './deltas/deltas.ts';
import type { DeltaMaker } from './deltas/maker-port.ts';
import { type EventStore, tellOutcomes } from './events/events.ts';
import { tellSilence } from './events/silence.ts';
import { Enrolments } from './fleet/enrolment.ts';
import type { Fleet } from './fleet/fleet.ts';
import type { FleetStore } from './fleet/fleet-store.ts';
import { GatewayBoard } from './fleet/gateway-board.ts';
import { ReportIntake } from './fleet/intake.ts';
import { JoinTokens } from './fleet/join-tokens.ts';
import { PendingMembers } from './fleet/pending.ts';
import { LOOK_EVERY_MS, PresenceBoard } from './fleet/presence.ts';
import { ProgressBoard } from './fleet/progress.ts';
import { ReportBudgets } from './fleet/report-budgets.ts';
import { AssignmentRenewals } from './fleet/renewal.ts';
import { OriginStatements } from './fleet/signing.ts';
import { createApp } from './http/app.ts';
import { BODY_PACE, type BodyPace } from './http/body.ts';
import type { OriginApp } from './http/context.ts';
import { EventStreams } from './http/event-streams.ts';
import { TimestampWaiters } from './http/long-poll.ts';
import { MAX_BODY_MEMORY_BYTES, MAX_RESPONSE_MEMORY_BYTES, MemoryBudget } from './http/memory.ts';
import { Metrics } from './http/metrics.ts';
import { SignedRequests } from './http/signed.ts';
import type { Leadership } from './leadership.ts';
import { type Log, RecurringErrors } from './log.ts';
import type { OwnCertificate } from './own-certificate.ts';
import { Readiness } from './readiness.ts';
import type { Repository } from './repository/repository.ts';
import type { PublishedChunks, RepositoryStore } from './repository/repository-store.ts';
import { Scrubber } from './repository/scrubber.ts';
import type { CohortStore } from './rollouts/cohort-store.ts';
import { Rollouts } from './rollouts/rollouts.ts';
import type { ChunkStaging, FileStaging } from './staging/ports.ts';
import type { Room } from './room.ts';
import type { Tokens } from './tokens/tokens.ts';
import type { After } from './upkeep.ts';

/** How often what is due is looked for; what failed is tried again then. */
const TEND_INTERVAL_MS = 60_000;
/** How often the origin reads its whole audit log. */
/** How often it is made durable when members were last heard. */
const SAVE_SEEN_INTERVAL_MS = 5 * 60_000;

/** What the services work on. Adapters of all of it are opened in `serve.ts`; tests put others in their place. */
export interface OriginServicesDeps {
  repository: Repository;
  published: RepositoryStore;
  publishedChunks: PublishedChunks;
  chunks: ChunkStaging;
  staged: FileStaging;
  deltaWork: DeltaWork;
  deltaMaker: DeltaMaker;
  fleetStore: FleetStore;
  cohortStore: CohortStore;
  tokens: Tokens;
  audit: AuditLog;
  events: EventStore;
  leadership: Leadership;
  room: Room;
  /** The database's. */
  state: DatabaseState;
  /** Undefined: another process does TLS, or none. */
  ownCertificate?: OwnCertificate | undefined;
  /** Where the origin is found in the fleet's network. */
  gossipAddresses: () => string[];
  now: () => number;
  after: After;
  log: Log;
}

interface OriginServicesSettings {
  /** What is kept of all reports together, about. */
  maxReportBytes: number;
  /** How much of what is published is read back a second; 0: nothing. */
  scrubBytesPerS: number;
  /** Whether deltas are made when a rollout starts. */
  makesDeltas: boolean;
  /** How slowly request bodies may come, and the memory that they share. */
  pace?: BodyPace;
  maxBodyMemoryBytes?: number;
}

/** The origin's services, connected. None of them runs by itself before `start`. */
export interface OriginServices {
  app: OriginApp;
  fleet: Fleet;
  rollouts: Rollouts;
  deltas: Deltas;
  scrubber: Scrubber;
  readiness: Readiness;
  waiters: TimestampWaiters;
  eventStreams: EventStreams;
  /** Begins to look for damage, and whether the origin is ready. */
  start(): void;
  /** Ends that. */
  stop(): Promise<void>;
  /** Answers all requests that wait for something, and lets none wait any more. */
  answerWaiting(): void;
  /** Ends what is under way, and makes durable what is only in memory. */
  close(): Promise<void>;
}

function openPresence({ fleetStore, repository, now }: OriginServicesDeps): Promise<PresenceBoard> {
  const timestampVersion = () => repository.committed?.timestamp.signed.version;
  return PresenceBoard.open({ store: fleetStore, timestampVersion, now });
}

export async function openOriginServices(
  deps: OriginServicesDeps,
  settings: OriginServicesSettings,
): Promise<OriginServices> {
  const { after } = deps;
  const progress = new ProgressBoard();
  const presence = await openPresence(deps);
  const { rollouts, deltas } = await openRollouts(deps, settings, progress);
  const verifyById = fastVerifyById();
  const fleet = fleetOf(deps, { rollouts, progress, presence, verifyById, ...settings });
  const scrubber = scrubberOf(deps, settings, rollouts);
  const auditCheck = new AuditSelfCheck(deps);
  const readiness = new Readiness(deps);
  const waiters = new TimestampWaiters(deps.repository, after);
  const eventStreams = new EventStreams(deps.events, after);
  const app = createApp({
    ...deps,
    fleet,
    rollouts,
    deltas,
    scrubber,
    readiness,
    waiters,
    eventStreams,
    ...requestsOf(deps, settings, verifyById),
    metrics: new Metrics({ ...deps, fleet, rollouts, scrubber, auditCheck }),
    responseMemory: new MemoryBudget(MAX_RESPONSE_MEMORY_BYTES),
  });
  const stopJobs = startJobs(deps, fleet, { rollouts, deltas, auditCheck });
  return {
    app,
    fleet,
    rollouts,
    deltas,
    scrubber,
    readiness,
    waiters,
    eventStreams,
    start() {
      deltas.start();
      scrubber.start();
      readiness.start();
    },
    async stop() {
      await deltas.stop();
      await readiness.stop();
      await scrubber.stop();
    },
    answerWaiting: () => [waiters, eventStreams].forEach(waiting => waiting.close()),
    async close() {
      await stopJobs();
      await fleet.intake.idle();
      await rollouts.stop();
      await presence.save({ isLast: true });
      await deps.fleetStore.saveSeen();
    },
  };
}

function scrubberOf(
  deps: OriginServicesDeps,
  { scrubBytesPerS: bytesPerS }: OriginServicesSettings,
  rollouts: Rollouts,
): Scrubber {
  return new Scrubber({ ...deps, bytesPerS, republishRollouts: product => rollouts.republish(product) });
}

/** How request bodies are taken, and who signed them. */
function requestsOf(
  deps: OriginServicesDeps,
  { pace = BODY_PACE, maxBodyMemoryBytes = MAX_BODY_MEMORY_BYTES }: OriginServicesSettings,
  verifyById: ReturnType<typeof fastVerifyById>,
) {
  const bodies = { memory: new MemoryBudget(maxBodyMemoryBytes), pace };
  const { registry } = deps.fleetStore;
  return { bodies, signedRequests: new SignedRequests({ ...deps, registry, verifyById, bodies }) };
}

/** Rollouts, and the deltas that are made for them. */
async function openRollouts(
  deps: OriginServicesDeps,
  { makesDeltas }: OriginServicesSettings,
  progress: ProgressBoard,
): Promise<{ rollouts: Rollouts; deltas: Deltas }> {
  const { fleetStore, cohortStore, deltaWork, deltaMaker } = deps;
  const { registry } = fleetStore;
  let deltas: Deltas | undefined;
  const awaitsDeltas = (product: string, counter: number, sinceMs: number): boolean =>
    deltas?.isAwaited(product, counter, sinceMs) === true;
  const rollouts = await Rollouts.open({ ...deps, registry, store: cohortStore, progress, awaitsDeltas });
  const making = { work: deltaWork, maker: deltaMaker, makesForRollouts: makesDeltas };
  deltas = await Deltas.open({ ...deps, ...making, rollouts, registry });
  return { rollouts, deltas };
}

interface FleetParts extends Pick<OriginServicesSettings, 'maxReportBytes'> {
  rollouts: Rollouts;
  progress: ProgressBoard;
  presence: PresenceBoard;
  verifyById: ReturnType<typeof fastVerifyById>;
}

/** Reports change rollouts, and are judged by them; what devices are called comes from the registry. */
function fleetOf(
  { repository, fleetStore: store, events, room, gossipAddresses, now, log }: OriginServicesDeps,
  { rollouts, progress, presence, verifyById, maxReportBytes }: FleetParts,
): Fleet {
  const { registry } = store;
  const joinTokens = new JoinTokens(store, now);
  const pending = new PendingMembers();
  const signer = () => repository.signerOf('rollouts');
  return {
    store,
    registry,
    joinTokens,
    enrolments: new Enrolments({ store, joinTokens, pending, verifyById, room, now }),
    statements: new OriginStatements(registry, signer, now),
    renewals: new AssignmentRenewals({ store, room, signer, now, log }),
    intake: new ReportIntake({
      store,
      progress,
      verifyById,
      isRolloutOf: (rolloutId, product) => rollouts.isOf(rolloutId, product),
      rolloutOf: (product, counter) => rollouts.idUnderWay(product, counter),
      onOutcomes: changes => {
        rollouts.noteOutcomes(changes);
        tellOutcomes(events, changes, id => registry.member(id)?.name);
      },
      budgets: new ReportBudgets(now),
      maxKeptBytes: maxReportBytes,
      room,
      now,
    }),
    progress,
    gateways: new GatewayBoard(registry, gossipAddresses),
    presence,
  };
}

/** What the origin does without being asked. @returns ends it, once what is under way has ended */
function startJobs(
  { leadership, events, now, after, log }: OriginServicesDeps,
  { store, registry, intake, presence }: Fleet,
  { rollouts, deltas, auditCheck }: { rollouts: Rollouts; deltas: Deltas; auditCheck: AuditSelfCheck },
): () => Promise<void> {
  let savedMs = now();
  const tend = async (): Promise<void> => {
    if (leadership.isHeld) await rollouts.reconcile();
    await presence.save();
    // Every gateway speaks every minute.
    if (Math.abs(now() - savedMs) < SAVE_SEEN_INTERVAL_MS) return;
    await store.saveSeen();
    savedMs = now();
  };
  const look = async (): Promise<void> => tellSilence(presence.look(), { events, registry, log });
  const every = repeating(after, new RecurringErrors(log));
  const stopTending = every(TEND_INTERVAL_MS, tend, 'tending the fleet failed');
  const tendDeltas = async () => (leadership.isHeld ? await deltas.tend() : undefined);
  const stopTendingDeltas = every(TEND_INTERVAL_MS, tendDeltas, 'tending deltas failed');
  const stopTidying = every(TEND_INTERVAL_MS, () => intake.tidy(), 'tidying reports failed');
  const stopLooking = every(LOOK_EVERY_MS, look, 'looking for silent gateways failed');
  const stopReading = every(TEND_INTERVAL_MS, () => auditCheck.lookIfDue(), 'reading the audit log failed');
  return async () => {
    await stopReading();
    await stopLooking();
    await stopTending();
    await stopTidying();
    await stopTendingDeltas();
  };
}

/** @returns begins something that is done again and again, whose failures are logged once; what that returns stops it */
function repeating(after: After, errors: RecurringErrors) {
  return (everyMs: number, act: () => Promise<void>, failure: string): (() => Promise<void>) => {
    const attempt = async (): Promise<void> => {
      try {
        await act();
        errors.succeeded(failure);
      } catch (error) {
        errors.failed(failure, error, failure, { retryMs: everyMs });
      }
    };
    return repeat(attempt, { everyMs, after });
  };
}
