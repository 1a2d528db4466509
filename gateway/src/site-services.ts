import { MAX_TOLD_TROUBLES, type Presence } from '@sitecast/shared/api';
import type { Acknowledgement, Assignment, JoinToken } from '@sitecast/shared/fleet';
import type { Identity } from '@sitecast/shared/identity';
import type { KeyValueStore } from '@sitecast/shared/key-value';
import type { Log } from '@sitecast/shared/log';
import type { RoleSigners } from '@sitecast/shared/trust';
import { HeardDevices, PresenceReporter } from './devices/presence.ts';
import { Leases } from './devices/leases.ts';
import { ACKNOWLEDGEMENTS, ASSIGNMENTS, RelayedDocuments } from './devices/relayed-documents.ts';
import type { Revocations, SiteDevices } from './devices/site-devices.ts';
import type { SiteNode } from './devices/site-node.ts';
import { Tracker } from './devices/tracker.ts';
import { EnrolmentRelay } from './enrolment/enrolment-relay.ts';
import { OwnEnrolment } from './enrolment/own-enrolment.ts';
import type { Mirror } from './mirror/mirror.ts';
import type { FleetNetwork } from './peer-gateways/announcements.ts';
import { GatewayRegistration } from './peer-gateways/gateway-registration.ts';
import type { PeerBook } from './peer-gateways/peer-book.ts';
import { ProgressRelay } from './reports/progress-relay.ts';
import { ReportQueue } from './reports/report-queue.ts';
import { ReportReceiver } from './reports/report-receiver.ts';
import { ReportSender } from './reports/report-sender.ts';
import type { Troubles } from './troubles.ts';
import { type SiteServer, SiteUpstreams } from './upstream/site-upstreams.ts';
import type { Upstream } from './upstream/upstream.ts';
import type { WanLimits } from './wan/wan-limits.ts';

interface SiteServicesDeps {
  identity: Identity;
  token: JoinToken | undefined;
  /** The site of the settings; a join token's goes before it. */
  site: string | undefined;
  onName: (name: string | undefined) => void;
  upstreams: readonly Upstream[];
  mirror: Mirror;
  /** A part of the database, by name. */
  records: (name: string) => KeyValueStore;
  devices: SiteDevices;
  revocations: Revocations;
  book: PeerBook;
  wanLimits: WanLimits;
  siteNode: SiteNode | undefined;
  troubles: Troubles;
  fleetNetwork: FleetNetwork | undefined;
  now: () => number;
  log: Log;
}

export type SiteServices = Awaited<ReturnType<typeof openSiteServices>>;

/** What the devices of the site and the origin say to each other. */
export async function openSiteServices(deps: SiteServicesDeps) {
  const { identity, records, mirror, devices, revocations, wanLimits, now, log } = deps;
  const upstreams = new SiteUpstreams(deps.upstreams, neighboursOf(deps));
  const signers = (): RoleSigners | undefined => mirror.current?.rolloutsSigners;
  const { assignments, acknowledgements } = await openDocuments(deps, upstreams, signers);
  const own = new OwnEnrolment({
    identity,
    token: deps.token,
    site: deps.site,
    records: records('enrolment'),
    upstreams,
    assignments,
    isReady: () => signers() !== undefined,
    onSite: site => devices.serve(site),
    onName: deps.onName,
    log,
  });
  const isEnrolled = (): boolean => own.state === 'enrolled';
  const isRevoked = (id: string): boolean => revocations.has(id);
  const isHere = (id: string): boolean => devices.isHere(id) && !isRevoked(id);
  const ofSite = { site: () => own.site(), isRevoked, now };
  const heard = new HeardDevices({ isHere });
  const leases = new Leases({
    ...ofSite,
    records: records('leases'),
    devices,
    assignmentOf: id => assignments.known(id),
    rolloutsOf: product => mirror.current?.rollouts.get(product),
  });
  const assignmentOf = knownOrAskedFor(assignments, log);
  const queue = await ReportQueue.open(records('outbox'), now);
  return {
    own,
    assignments,
    acknowledgements,
    signers,
    isHere,
    isRevoked,
    heard,
    leases,
    queue,
    tracker: new Tracker({ ...ofSite, assignmentOf, onAnnounced: peer => deps.siteNode?.reserve(peer) }),
    presence: openPresence(deps, { heard, leases, isEnrolled }),
    registration: openRegistration(deps, { upstreams, isEnrolled }),
    reports: new ReportReceiver({
      queue,
      assignments,
      acknowledgements,
      onRunning: (id, counter, inventory) => devices.noteRunning(id, counter, inventory),
      now,
    }),
    sender: new ReportSender({ queue, acknowledgements, upstreams, limits: wanLimits, log }),
    enrolments: new EnrolmentRelay({ upstreams, assignments, now }),
    progress: new ProgressRelay(upstreams),
    /** Counts the devices that were assigned before the start: once it is known who may sign assignments. */
    countDevices: async (): Promise<void> => {
      devices.serve(await own.site());
      for await (const assignment of assignments.all()) devices.note(assignment);
    },
  };
}

/** Gateways that pass this one's requests on, the best first. */
function neighboursOf({ fleetNetwork }: SiteServicesDeps): () => SiteServer[] {
  return () => fleetNetwork?.neighbours.ids().map(id => fleetNetwork.neighbours.source(id)) ?? [];
}

async function openDocuments(
  { records, devices, now, log }: SiteServicesDeps,
  upstreams: SiteUpstreams,
  signers: () => RoleSigners | undefined,
) {
  const common = { upstreams, signers, now, log };
  const assignments = await RelayedDocuments.open<Assignment>({
    ...common,
    kind: ASSIGNMENTS,
    records: records('assignments'),
    onAccepted: assignment => devices.note(assignment),
  });
  const acknowledgements = await RelayedDocuments.open<Acknowledgement>({
    ...common,
    kind: ACKNOWLEDGEMENTS,
    records: records('acknowledgements'),
  });
  return { assignments, acknowledgements };
}

/** A gateway that has just started knows no device. It asks for an assignment without waiting: the device comes again. */
function knownOrAskedFor(assignments: RelayedDocuments<Assignment>, log: Log) {
  return async (id: string, address?: string): Promise<Assignment | undefined> => {
    const known = await assignments.known(id);
    if (!known)
      assignments
        .get(id, { isForwarded: false, address })
        .catch((error: unknown) => log.error({ err: error }, 'an assignment could not be kept'));
    return known;
  };
}

/** Only the origin counts whom a gateway hears: another gateway in its place would know nothing of it. */
function openPresence(
  deps: SiteServicesDeps,
  about: { heard: HeardDevices; leases: Leases; isEnrolled: () => boolean },
): PresenceReporter {
  const { upstreams, mirror, troubles, now, log } = deps;
  const origins = upstreams.filter(({ isOrigin }) => isOrigin);
  const toOrigin = new SiteUpstreams(origins.length > 0 ? origins : upstreams, neighboursOf(deps));
  const condition = (): Pick<Presence, 'timestampVersion' | 'troubles'> => {
    const version = mirror.current?.roles.find(({ role }) => role === 'timestamp')?.version;
    const { all } = troubles;
    return {
      ...(version !== undefined && { timestampVersion: version }),
      ...(all.length > 0 && { troubles: all.slice(0, MAX_TOLD_TROUBLES) }),
    };
  };
  return new PresenceReporter({ ...about, upstreams: toOrigin, condition, now, log });
}

function openRegistration(
  { book, fleetNetwork, now, log }: SiteServicesDeps,
  { upstreams, isEnrolled }: { upstreams: SiteUpstreams; isEnrolled: () => boolean },
): GatewayRegistration {
  const fleetAddresses = (): string[] => fleetNetwork?.addresses() ?? [];
  return new GatewayRegistration({ upstreams, isEnrolled, fleetAddresses, book, now, log });
}
