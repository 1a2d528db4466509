import type { Acknowledgement, Assignment } from '@sitecast/shared/fleet';
import { ACKNOWLEDGEMENTS, ASSIGNMENTS } from './devices/document-kinds.ts';
import { RelayedDocuments } from './devices/relayed-documents.ts';
import { EnrolmentRelay } from './enrolment/enrolment-relay.ts';
import { OwnEnrolment } from './enrolment/own-enrolment.ts';
import { GatewayRegistration } from './peer-gateways/gateway-registration.ts';
import type { GatewayParts } from './parts.ts';
import { Leases } from './devices/leases.ts';
import { Revocations, SiteDevices } from './devices/site-devices.ts';
import type { Mirror } from './mirror/mirror.ts';
import { ReportReceiver } from './reports/report-receiver.ts';
import { ReportQueue } from './reports/report-queue.ts';
import { ReportSender } from './reports/report-sender.ts';
import { Tracker } from './devices/tracker.ts';
import { HeardDevices } from './devices/heard-devices.ts';
import { PresenceReporter } from './devices/presence-reporter.ts';
import { ProgressRelay } from './reports/progress-relay.ts';
import { SiteUpstreams } from './upstream/site-upstreams.ts';

/** Everything that devices and the origin have to say to each other. */
export async function openSite(parts: GatewayParts, mirror: Mirror) {
  const { upstreams, records, now, log } = parts;
  const site = new SiteUpstreams(upstreams);
  const devices = new SiteDevices();
  const documents = await openDocuments(parts, mirror, site, devices);
  const { assignments, acknowledgements } = documents;
  const queue = await ReportQueue.open(records('outbox'), now);
  const own = openOwnEnrolment(parts, mirror, site, assignments, devices);
  const revocations = new Revocations();
  const leases = new Leases({
    records: records('leases'),
    devices,
    site: () => own.site(),
    assignmentOf: id => assignments.known(id),
    rolloutsOf: product => mirror.current?.rollouts.get(product),
    isRevoked: id => revocations.has(id),
    now,
  });
  const tracker = new Tracker({
    site: () => own.site(),
    assignmentOf: async (id, address) => {
      const known = await assignments.known(id);
      // A gateway that was started anew knows no device yet. It isn't waited for: who isn't known comes again.
      if (!known)
        assignments
          .get(id, { isForwarded: false, address })
          .catch((error: unknown) => log.error({ err: error }, 'an assignment could not be kept'));
      return known;
    },
    isRevoked: id => revocations.has(id),
    onTold: peer => parts.siteNode?.name(peer),
    now,
  });
  const isHere = (id: string): boolean => devices.isHere(id) && !revocations.has(id);
  const heard = new HeardDevices({ isHere });
  return {
    ...documents,
    devices,
    isHere,
    heard,
    presence: openPresence(parts, { own, heard, leases }),
    queue,
    own,
    leases,
    revocations,
    isRevoked: (id: string) => revocations.has(id),
    tracker,
    introduction: openRegistration(parts, site, own),
    reports: new ReportReceiver({ queue, assignments, acknowledgements, now }),
    enrolments: new EnrolmentRelay({ upstreams: site, assignments, now }),
    progress: new ProgressRelay(site),
    sender: new ReportSender({ queue, acknowledgements, upstreams: site, limits: parts.wanLimits, log }),
  };
}

async function openDocuments(
  { records, now, log }: GatewayParts,
  mirror: Mirror,
  upstreams: SiteUpstreams,
  devices: SiteDevices,
) {
  const common = { upstreams, signers: () => mirror.current?.rolloutsSigners, now, log };
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

function openOwnEnrolment(
  { identity, token, settings, records, onName, log }: GatewayParts,
  mirror: Mirror,
  upstreams: SiteUpstreams,
  assignments: RelayedDocuments<Assignment>,
  devices: SiteDevices,
): OwnEnrolment {
  return new OwnEnrolment({
    identity,
    token,
    site: settings.site,
    records: records('enrolment'),
    upstreams,
    assignments,
    isReady: () => mirror.current?.rolloutsSigners !== undefined,
    onSite: site => {
      devices.serve(site);
    },
    onName,
    log,
  });
}

/** The origin alone is told: another gateway, in its place, would know nothing of it. */
function openPresence(
  { upstreams, now, log }: GatewayParts,
  { own, ...about }: { own: OwnEnrolment; heard: HeardDevices; leases: Leases },
): PresenceReporter {
  const origins = upstreams.filter(({ isOrigin }) => isOrigin);
  return new PresenceReporter({
    ...about,
    upstreams: new SiteUpstreams(origins.length > 0 ? origins : upstreams),
    isEnrolled: () => own.state === 'enrolled',
    now,
    log,
  });
}

function openRegistration(
  { announcements, book, ownUrls, now, log }: GatewayParts,
  upstreams: SiteUpstreams,
  own: OwnEnrolment,
): GatewayRegistration {
  return new GatewayRegistration({
    upstreams,
    isEnrolled: () => own.state === 'enrolled',
    ownAddresses: () => {
      const urls = ownUrls();
      return urls && { fleet: announcements?.addresses() ?? [], urls };
    },
    book,
    now,
    log,
  });
}

/** Counts the devices that were assigned before the start: once it's known who may sign. */
export async function countDevices({
  assignments,
  devices,
  own,
}: Pick<Awaited<ReturnType<typeof openSite>>, 'assignments' | 'devices' | 'own'>): Promise<void> {
  devices.serve(await own.site());
  for await (const assignment of assignments.all()) devices.note(assignment);
}
