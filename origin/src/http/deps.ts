import type { AuditLog } from '../audit/audit.ts';
import type { Deltas } from '../deltas/deltas.ts';
import type { Fleet } from '../fleet/fleet.ts';
import type { Log } from '../log.ts';
import type { OwnCertificate } from '../own-certificate.ts';
import type { Readiness } from '../readiness.ts';
import type { Repository } from '../repository/repository.ts';
import type { RepositoryStore } from '../repository/repository-store.ts';
import type { Scrubber } from '../repository/scrubber.ts';
import type { CohortStore } from '../rollouts/cohort-store.ts';
import type { Rollouts } from '../rollouts/rollouts.ts';
import type { ChunkStaging, FileStaging } from '../staging/ports.ts';
import type { Room } from '../room.ts';
import type { Tokens } from '../tokens/tokens.ts';
import type { BodyPace } from './body.ts';
import type { EventStreams } from './event-streams.ts';
import type { TimestampWaiters } from './long-poll.ts';
import type { MemoryBudget } from './memory.ts';
import type { Metrics } from './metrics.ts';
import type { SignedRequests } from './signed.ts';

/** The dependencies of the routes. */
export interface AppDeps {
  repository: Repository;
  readiness: Readiness;
  scrubber: Scrubber;
  published: Pick<RepositoryStore, 'open'>;
  chunks: ChunkStaging;
  staged: FileStaging;
  tokens: Tokens;
  fleet: Fleet;
  audit: AuditLog;
  rollouts: Rollouts;
  deltas: Deltas;
  cohortStore: Pick<CohortStore, 'statusPage' | 'rollbackProgress'>;
  signedRequests: SignedRequests;
  waiters: TimestampWaiters;
  eventStreams: EventStreams;
  room: Room;
  metrics: Metrics;
  /** Memory shared by all request bodies, and how slowly they may come. */
  bodies: { memory: MemoryBudget; pace: BodyPace };
  /** Shared by all files that are sent. */
  responseMemory: MemoryBudget;
  /** Undefined if a proxy does TLS, or no TLS is used. */
  ownCertificate?: Pick<OwnCertificate, 'warnings'> | undefined;
  now: () => number;
  log: Log;
}
