import type { DeltaView, UpdateCost } from '@sitecast/shared/api';
import { plural } from '@sitecast/shared/text';
import { formatBytes, table } from '../output.ts';

/** Versions by their counters, as far as they are known. */
type VersionOf = (counter: number) => string;

export function describeDeltas(deltas: readonly DeltaView[], versionOf: VersionOf): string[] {
  const rows = deltas.map(delta => [
    versionOf(delta.from),
    versionOf(delta.to),
    delta.state,
    delta.state === 'published' ? '' : `${Math.floor(delta.doneBasisPoints / 100)} %`,
    formatBytes(delta.bytes ?? delta.patchBytes),
    delta.by,
    delta.reason && delta.state !== 'published' ? `${delta.reason.code}: ${delta.reason.message}` : '',
  ]);
  return table(['FROM', 'TO', 'STATE', 'DONE', 'BYTES', 'ASKED BY', ''], rows);
}

/** What an update costs, for people. Estimates begin with `about`. */
export function describeCost({ to, imageBytes, from, sites, unknown }: UpdateCost): string[] {
  const lines = from.map(cost => {
    const about = cost.isEstimate ? 'about ' : '';
    const how = cost.by === 'delta' ? 'by a delta' : 'by chunks';
    return `from ${cost.from.version}, ${plural(cost.devices, 'device')}: ${about}${formatBytes(cost.bytes)} a device, ${how}`;
  });
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
  if (lines.length === 0) lines.push(`no device would fetch ${to.version}`);
  return lines;
}
