import { SitecastError } from '../errors.ts';
import type { Envelope } from '../identity/index.ts';

/**
 * What one device may send in reports, in bytes of their envelopes, at a gateway: at once, and then on average. An update tells seven
 * reports, 5.7 KB together, 7.5 KB where it fails: so it's 35 failing updates at once, and nine an hour.
 */
export const REPORT_RATE = { burst: 256 * 1024, perS: (64 * 1024) / 3600 };
/** Code of the refusal of reports beyond it: the device keeps them, and sends them later. */
export const OVER_BUDGET = 'SITECAST_REPORTS_OVER_BUDGET';
/** Where several reports wait it's until so many bytes go through: a request for each would cost more than they do. */
const WORTH_SENDING_BYTES = 16 * 1024;
/** The longest that a device or gateway waits before it asks again, whatever it was told, seconds. */
export const MAX_REPORT_WAIT_S = 3600;

/** What a report weighs on the wire and on a disk, bytes: its envelope's JSON. */
export function reportBytes(envelope: Envelope): number {
  return Buffer.byteLength(JSON.stringify(envelope));
}

/**
 * When reports that are beyond the budget are worth sending again, in whole seconds.
 * @param waits what is refused, in bytes, in order
 * @param waitS of the device's bucket
 */
export function reportsRetryAfterS(waits: readonly number[], waitS: (bytes: number) => number): number {
  const [first = 0] = waits;
  const all = waits.reduce((sum, bytes) => sum + bytes, 0);
  return Math.min(
    MAX_REPORT_WAIT_S,
    Math.ceil(waitS(Math.max(first, Math.min(all, WORTH_SENDING_BYTES)))) + 1,
  );
}

/** For a sender of whose reports none is taken now. */
export function reportsOverBudget(retryAfterS: number): SitecastError {
  return new SitecastError(
    'unreachable',
    OVER_BUDGET,
    'this device has sent as many bytes of reports as it may for now',
    { hint: 'It keeps them, and sends them later, in their order.', data: { retryAfterS } },
  );
}
