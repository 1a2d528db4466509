import type { Acknowledgement, Assignment } from '@sitecast/shared/fleet';
import type { NamedHosts } from '@sitecast/shared/bounded';
import type { Receiver } from '@sitecast/shared/http-signature';
import type { DatabaseState } from '@sitecast/shared/key-value';
import type { FoundTarget } from '@sitecast/shared/trust';
import type { RelayedDocuments } from '../devices/relayed-documents.ts';
import type { EnrolmentRelay } from '../enrolment/enrolment-relay.ts';
import type { Leases } from '../devices/leases.ts';
import type { Log } from '@sitecast/shared/log';
import type { Mirror } from '../mirror/mirror.ts';
import type { TargetFiles } from '../mirror/target-files.ts';
import type { ReportReceiver } from '../reports/report-receiver.ts';
import type { Tracker } from '../devices/tracker.ts';
import type { SiteWays } from '../wan/site-ways.ts';
import type { HeardDevices } from '../devices/presence.ts';
import type { ProgressRelay } from '../reports/progress-relay.ts';
import type { Metrics } from './metrics.ts';

/** What the routes use. */
export interface AppDeps {
  mirror: Mirror;
  targets: Pick<TargetFiles, 'local'>;
  /** Fetches a mirrored file that is not here. */
  fetchTarget: (target: FoundTarget) => Promise<Uint8Array>;
  /** The same for another gateway, where a rollout under way needs it; undefined where none does. */
  fetchForGateway: (target: FoundTarget) => Promise<Uint8Array | undefined>;
  assignments: RelayedDocuments<Assignment>;
  acknowledgements: RelayedDocuments<Acknowledgement>;
  enrolments: EnrolmentRelay;
  reports: ReportReceiver;
  progress: ProgressRelay;
  leases: Leases;
  tracker: Tracker;
  siteWays: Pick<SiteWays, 'wayOf'>;
  heard: HeardDevices;
  /** Whether an id is a device of this site that is not revoked. */
  isHere: (id: string) => boolean;
  /** This gateway, as signed requests name it. */
  receiver: Receiver;
  /** This gateway's id and site, for the others of its site. */
  self: () => { id: string; site?: string };
  /** Another gateway asks who answers here. Its id is not verified. */
  onGatewaySeen: (id: string) => void;
  isRevoked: (id: string) => boolean;
  /** Whether this gateway itself is revoked: what it takes would not reach the origin. */
  isOwnRevoked: () => boolean;
  /** Addresses of known devices. */
  hosts: NamedHosts;
  metrics: Metrics;
  database: DatabaseState;
  /** Of the data directory's file system. */
  room: { readonly path: string; freeBytes(): Promise<number> };
  now: () => number;
  log: Log;
}
