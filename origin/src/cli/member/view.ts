import { plural, transferText } from '@sitecast/shared/text';
import type { Member, MemberDetail } from '../origin/fleet-api.ts';
import { calledText, facts, field, table } from '../output.ts';
import { behindText, turnLines } from '../presence-view.ts';
import { reasonText } from '../rollout/view.ts';

const SHORT_EPOCH_CHARS = 8;

/** Warns that the wished name is taken. A device that was set up again looks like a device that tries to take another's place. */
export function takenText({
  name,
  bearer,
}: {
  name: string;
  bearer: NonNullable<Member['wishBearer']>;
}): string {
  const { kind, id, lastHeardAt } = bearer;
  return `${name} is already the name of ${kind} ${id} (last heard ${lastHeardAt}); accepting replaces it: it is revoked for good`;
}

export function formatTags(tags: Record<string, string>): string {
  return Object.entries(tags)
    .map(([name, value]) => `${name}=${field(value)}`)
    .join(' ');
}

/** `the site nroth (is it north?)` */
export function namesText(
  names: readonly { what: string; name: string; nearest?: string | undefined }[],
): string {
  return names
    .map(
      ({ what, name, nearest }) =>
        `the ${what} ${name}${nearest === undefined ? '' : ` (is it ${nearest}?)`}`,
    )
    .join(', ');
}

/** One device or gateway on one screen. */
export function describeMember(member: MemberDetail): string[] {
  const turns = turnLines(member.hears?.turns ?? []);
  const parts = [known(member), turns, inventory(member), oddities(member), history(member)];
  return parts.filter(lines => lines.length > 0).flatMap((lines, at) => (at === 0 ? lines : ['', ...lines]));
}

function known(member: MemberDetail): string[] {
  const { id, kind, product, hardware, site, tags, state, last } = member;
  const lines: Line[] = [
    [kind, calledText(member)],
    ['id', member.name === undefined ? undefined : id],
    ['product', product === undefined ? undefined : `${product}, hardware ${hardware ?? 'unknown'}`],
    ['site', site],
    ['tags', formatTags(tags) || undefined],
    ['state', state],
    ...(last ? reportLines(last, member.names) : []),
    ['bytes', costText(member)],
    ['seen', member.lastSeenAt],
    ['heard', hearingText(member)],
    ...conditionLines(member),
    ['enrolled', member.enrolledAt],
    ['revoked', member.revokedAt],
    ['quarantined', member.quarantinedAt && `${member.quarantinedAt}: several machines seem to have its key`],
  ];
  return facts(lines.filter((line): line is [string, string] => line[1] !== undefined));
}

/** Names and values come from the device. They are shown apart from what the origin knows. */
function inventory(member: MemberDetail): string[] {
  const rows = Object.entries(member.inventory ?? {}).map(([name, value]) => [name, String(value)]);
  return rows.length === 0 ? [] : table(['INVENTORY', `AS THE ${member.kind.toUpperCase()} SAYS`], rows);
}

/** What a gateway says of itself. */
function conditionLines({ mirror, troubles = [] }: MemberDetail): Line[] {
  const served = mirror && `serves version ${mirror.timestampVersion} of the timestamp`;
  const behind = behindText(mirror);
  return [
    ['metadata', behind === undefined ? served : `${served}, ${behind}`],
    ...troubles.map(({ code, detail }): Line => ['trouble', `${detail} (${code})`]),
  ];
}

/** A label and its text; undefined omits the line. */
type Line = [string, string | undefined];

const bootedText = ({
  release,
  slot,
  isConfirmed,
}: NonNullable<NonNullable<MemberDetail['last']>['booted']>) =>
  `${releaseText(release)} in slot ${slot}${isConfirmed === false ? ', unconfirmed: on trial, or not known to be good' : ''}`;

function reportLines(last: NonNullable<MemberDetail['last']>, names: MemberDetail['names']): Line[] {
  const { reason, booted, rollout, receivedAt, at, via, timestampVersion } = last;
  return [
    ['why', reason && reasonText(reason)],
    ['runs', booted && bootedText(booted)],
    ['rollout', rollout && `${rollout.id}, attempt ${rollout.attempt}`],
    ['reported', `${receivedAt} (its clock: ${at})${via === undefined ? '' : ` via ${names[via] ?? via}`}`],
    ['metadata', `trusts version ${timestampVersion} of the timestamp`],
  ];
}

/** What its newest update was to cost, and has cost. */
function costText({ reports }: MemberDetail): string | undefined {
  const newest = reports.find(({ report }) => report.transfer)?.report;
  return newest?.transfer && `${releaseText(newest.release)} from gateways: ${transferText(newest.transfer)}`;
}

/** Undefined for a waiting or revoked member, and from an origin of an earlier version. */
function hearingText({ kind, presence, heardBy = [], hears, names }: MemberDetail): string | undefined {
  if (presence === undefined) return undefined;
  if (kind === 'gateway')
    return GATEWAY_PRESENCE[presence] + (hears ? `: ${plural(hears.devices, 'device')}` : '');
  return presence === 'heard'
    ? `now, by ${heardBy.map(id => names[id] ?? id).join(', ')}`
    : DEVICE_PRESENCE[presence];
}

const GATEWAY_PRESENCE = {
  heard: 'it lives, and tells whom it hears',
  silent: 'no: it is silent',
  untold: 'it does not tell whom it hears (yet)',
};
const DEVICE_PRESENCE = {
  silent: 'no: the gateways of its site live, and none hears it',
  untold: 'unknown: no gateway of its site tells; its last report counts',
};

function oddities({ anomalies, chains }: MemberDetail): string[] {
  if (anomalies.length === 0) return [];
  const rows = anomalies.map(({ kind, at, epoch, seq }) => [
    at,
    ANOMALIES[kind] ?? kind,
    `${short(epoch)}/${seq}`,
  ]);
  const known = chains.map(({ epoch, seq }) => `${short(epoch)} (${plural(seq, 'report')})`).join(', ');
  return [...table(['ODD', 'WHAT', 'REPORT'], rows), `report chains, oldest first: ${known}`];
}

const ANOMALIES: Record<string, string> = {
  gap: 'reports before this one are missing',
  fork: 'another report has its place in the chain',
  epochChange: 'it began a new chain: it lost its data, or was set up anew',
  interleaved: 'an older chain went on beside a newer one',
};

function history({ kind, reports, kept }: MemberDetail): string[] {
  // Gateways don't report.
  if (reports.length === 0) return kind === 'gateway' ? [] : ['no report yet'];
  const dropped = kept?.dropped ?? 0;
  const older =
    dropped === 0
      ? []
      : [`${plural(dropped, 'older report')} no longer kept; the newest ${kept?.reports} are`];
  const rows = reports.map(({ report, receivedAt }) => [
    receivedAt,
    String(report.seq),
    report.state,
    releaseText(report.release),
    report.rollout?.id ?? '-',
    report.reason ? reasonText(report.reason) : '',
  ]);
  return [...table(['RECEIVED', 'REPORT', 'STATE', 'RELEASE', 'ROLLOUT', ''], rows), ...older];
}

function releaseText(release: { counter: number; version: string } | undefined): string {
  return release ? `${release.version} (${release.counter})` : '-';
}

function short(epoch: string): string {
  return epoch.slice(0, SHORT_EPOCH_CHARS);
}
