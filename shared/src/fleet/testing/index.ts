// For tests only: what an origin says about a device.
import type { Assignment } from '../assignment.ts';

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
