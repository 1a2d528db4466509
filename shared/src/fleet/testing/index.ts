// For tests only: what an origin says about a device, and what agents of the first release signed.
import type { Envelope, Identity } from '../../identity/index.ts';
import type { Assignment } from '../assignment.ts';
import type { Report } from '../report.ts';

/** A camera at the site `north`, but for what is said otherwise. */
export function assignmentFor(id: string, changes: Partial<Assignment> = {}): Assignment {
  return {
    format: 'sitecast-assignment-1',
    id,
    kind: 'device',
    product: 'camera',
    hardware: 'rpi4',
    site: 'north',
    tags: {},
    serial: 1,
    enrolledAt: '2029-01-01T00:00:00Z',
    issuedAt: '2029-01-01T00:00:00Z',
    ...changes,
  };
}

/** A report as version 0.1 sealed it: whatever its texts hold, halves of surrogate pairs too. */
export async function sealUnchecked(report: Report, identity: Identity): Promise<Envelope> {
  const payload = Buffer.from(JSON.stringify(report));
  const payloadType = 'application/vnd.sitecast.report+json';
  const head = Buffer.from(`DSSEv1 ${payloadType.length} ${payloadType} ${payload.length} `);
  const sig = await identity.sign(Buffer.concat([head, payload]));
  return {
    payload: payload.toString('base64'),
    payloadType,
    signatures: [{ keyid: identity.id, sig: Buffer.from(sig).toString('base64') }],
  };
}
