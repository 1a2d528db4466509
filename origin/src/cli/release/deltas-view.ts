import type { DeltaView, UpdateCost } from '@sitecast/shared/api';
import { plural } from '@sitecast/shared/text';
import { field, formatBytes, table } from '../output.ts';

/** The deltas, one a line. Estimates begin with `about`. */
export function describeDeltas(deltas: readonly DeltaView[]): string[] {
  const rows = deltas.map(delta => [
    `${fromText(delta)} -> ${delta.toVersion ?? `counter ${delta.to}`}`,
    stateOf(delta),
    bytesOf(delta),
    delta.chunkBytes === undefined ? '' : formatBytes(delta.chunkBytes),
    timeOf(delta),
    delta.signed === true ? `signed by ${delta.by}` : delta.by,
    whyOf(delta),
  ]);
  return table(['FROM -> TO', 'STATE', 'A DEVICE FETCHES', 'BY CHUNKS', 'SINCE', 'ASKED BY', ''], rows);
}

/** The release that a delta leads from; its counter where it is no longer listed. */
export const fromText = ({ from, fromVersion }: Pick<DeltaView, 'from' | 'fromVersion'>): string =>
  fromVersion ?? `counter ${from}`;

const percentOf = (basisPoints: number): string => `${Math.floor(basisPoints / 100)} %`;

function stateOf({ state, doneBasisPoints, tries }: DeltaView): string {
  switch (state) {
    case 'waiting':
      if (tries > 0) return `waiting, failed ${plural(tries, 'time')}`;
      return doneBasisPoints > 0 ? `waiting, ${percentOf(doneBasisPoints)} made` : state;
    case 'making':
      return `making, ${percentOf(doneBasisPoints)}`;
    case 'notWorth':
      return 'not worth it';
    default:
      return state;
  }
}

function whyOf({ over, state, reason, notBefore }: DeltaView): string {
  if (over === true) return 'its rollouts are over: the next draft of the product leaves it out';
  if (state === 'notWorth') return 'chunks cost no more';
  if (state === 'removed') return reason?.message ?? '';
  if (!reason || (state !== 'waiting' && state !== 'failed')) return '';
  const again = state === 'waiting' && notBefore !== undefined ? `; again at ${secondsOf(notBefore)}` : '';
  return `${reason.code}: ${reason.message}${again}`;
}

function bytesOf({ bytes, estimatedBytes }: DeltaView): string {
  if (bytes !== undefined) return formatBytes(bytes);
  return estimatedBytes === undefined ? '' : `about ${formatBytes(estimatedBytes)}`;
}

/** When it ended, or else when it was asked for. */
function timeOf({ endedAt, requestedAt }: DeltaView): string {
  return secondsOf(endedAt ?? requestedAt ?? '');
}

const secondsOf = (instant: string): string => instant.replace(/\.\d+Z$/, 'Z');

const HOW = new Map([['delta', 'by a delta']]);
const howOf = (by: string): string => HOW.get(by) ?? 'by chunks';

/** What an update costs, for people. Estimates begin with `about`. */
export function describeCost({ to, imageBytes, from, sites, unknown }: UpdateCost): string[] {
  const lines = from.flatMap(cost => [
    `from ${cost.from.version}, ${plural(cost.devices, 'device')}: ${amount(cost)} a device, ${howOf(cost.by)}`,
    ...(cost.others ?? []).map(
      other =>
        `  ${other.devices} of them ${whyMore(other)}: ${amount({ ...other, isEstimate: other.by === 'chunks' })} a device, ${howOf(other.by)}`,
    ),
  ]);
  if (unknown > 0)
    lines.push(
      `${plural(unknown, 'device')} ${unknown === 1 ? 'has' : 'have'} not said what they run: at most about ${formatBytes(imageBytes)} a device, the whole image`,
    );
  if (sites.count > 0) {
    const about = sites.isEstimate ? 'about ' : '';
    lines.push(
      `over the WAN of ${plural(sites.count, 'site')}: at most ${about}${formatBytes(sites.mostBytes)} a site, ${about}${formatBytes(sites.allBytes)} together`,
    );
  }
  if (lines.length === 0)
    lines.push(`no enrolled device runs another release: none would fetch ${to.version}`);
  return lines;
}

/** Why some devices fetch more, as the rest of a sentence about them. */
function whyMore({
  devices,
  why,
  lacks = [],
}: NonNullable<UpdateCost['from'][number]['others']>[number]): string {
  const isOne = devices === 1;
  switch (why) {
    case 'noDeltas':
      return `${isOne ? 'uses' : 'use'} no deltas (an earlier agent, or \`--deltas off\`)`;
    case 'signedOnly':
      return `${isOne ? 'takes' : 'take'} only deltas that release keys have signed (\`release draft --delta-from\`)`;
    case 'otherFormat':
      return `${isOne ? 'reads' : 'read'} deltas of another format`;
    case 'encoders':
      return `${isOne ? 'lacks' : 'lack'} ${lacks.map(field).join(', ')}, which the delta needs`;
    default:
      return "can't use all of it";
  }
}

function amount({ bytes, isEstimate }: { bytes: number; isEstimate: boolean }): string {
  return `${isEstimate ? 'about ' : ''}${formatBytes(bytes)}`;
}
