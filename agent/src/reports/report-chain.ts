import { createHash } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import {
  fittingEvent,
  isReportPayload,
  type Report,
  type ReportEvent,
  sealReport,
} from '@sitecast/shared/fleet';
import type { Envelope, Identity } from '@sitecast/shared/identity';

/** A report of this device's chain, as it is stored and sent. */
export interface Entry {
  report: Report;
  envelope: Envelope;
  payloadSha256: string;
}

/**
 * Seals the next report of a chain. Only a report that every reader takes comes into it.
 * @param before the chain's last report; undefined for its first
 * @throws SITECAST_REPORT_UNTELLABLE where the event can't be made such a report
 */
export async function sealEntry(
  event: ReportEvent,
  { identity, epoch, before }: { identity: Identity; epoch: string; before: Entry | undefined },
): Promise<Entry> {
  const report: Report = {
    ...fittingEvent(event),
    format: 'sitecast-report-1',
    id: identity.id,
    epoch,
    seq: (before?.report.seq ?? 0) + 1,
    previous: before?.payloadSha256 ?? null,
  };
  const envelope = await sealReport(report, identity);
  const payload = Buffer.from(envelope.payload, 'base64');
  if (!isReportPayload(payload))
    throw new SitecastError(
      'failed',
      'SITECAST_REPORT_UNTELLABLE',
      `no reader would take a report ${event.state}`,
    );
  return { report, envelope, payloadSha256: sha256(payload) };
}

/** Seals a whole chain. Where the file has no room for all events the oldest are left out: it couldn't be read at the next start. */
export async function sealChain(
  events: readonly ReportEvent[],
  place: { identity: Identity; epoch: string },
  maxBytes: number,
): Promise<Entry[]> {
  const entries: Entry[] = [];
  for (const event of events) entries.push(await sealEntry(event, { ...place, before: entries.at(-1) }));
  let lengthBytes = 0;
  const last = entries.findLastIndex(entry => {
    lengthBytes += linesOf([entry]).length;
    return lengthBytes > maxBytes;
  });
  return last === -1 ? entries : sealChain(events.slice(last + 1), place, maxBytes);
}

export function eventOf(report: Report): ReportEvent {
  const { at, timestampVersion, state, rollout, release, booted, reason, inventory } = report;
  return { at, timestampVersion, state, rollout, release, booted, reason, inventory };
}

export function linesOf(entries: readonly Entry[]): Buffer {
  return Buffer.from(entries.map(({ envelope }) => `${JSON.stringify(envelope)}\n`).join(''));
}

export function payloadSha256({ payload }: Envelope): string {
  return sha256(Buffer.from(payload, 'base64'));
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Whether one report is the next after another; any may be the first. */
export function follows({ report }: Entry, before: Entry | undefined): boolean {
  if (!before) return true;
  return (
    report.epoch === before.report.epoch &&
    report.seq === before.report.seq + 1 &&
    report.previous === before.payloadSha256
  );
}
