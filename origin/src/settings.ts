import type { ListenAddress } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { InvalidArgumentError } from 'commander';

/** The origin's place in the fleet's network. */
export interface GossipSettings {
  /** Multiaddresses; none: it isn't joined. */
  listen: string[];
  /** Multiaddresses to announce, where those it listens on can't be reached from outside. */
  announce: string[];
  fleetKeyFile?: string | undefined;
}

/** The settings of `sitecast-origin serve`. */
export interface OriginSettings {
  dataDirectory: string;
  listen: ListenAddress;
  /** PEM files. */
  tls?: { certPath: string; keyPath: string } | undefined;
  stagingTtlMs: number;
  maxStagedBytes: number;
  /** What is kept of all devices' reports together, about. */
  maxReportBytes: number;
  /** What uploads, enrolments and reports leave free of the disk. */
  reserveBytes: number;
  /** How much of what is published is read back a second; 0 or absent: nothing. */
  scrubBytesPerS?: number;
  /** Whether deltas are made when a rollout starts; absent: no. */
  makesDeltas?: boolean;
  /** The day for which an operator vouches that the clock is right, as `2026-11-30`. */
  acceptedDay?: string | undefined;
  gossip?: GossipSettings;
}

/** As `parseSizeBytes`, or 0. For commander. */
export function parseRateBytes(text: string): number {
  return text === '0' ? 0 : parseSizeBytes(text);
}

/** A day of the calendar. For commander. */
export function parseDay(text: string): string {
  const ms = /^\d{4}-\d\d-\d\d$/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(ms) || new Date(ms).toISOString().slice(0, 10) !== text)
    throw new InvalidArgumentError('expected a day such as 2026-11-30');
  return text;
}

const UNIT_BYTES = new Map([
  ['', 1],
  ['KiB', 2 ** 10],
  ['MiB', 2 ** 20],
  ['GiB', 2 ** 30],
  ['TiB', 2 ** 40],
]);

/** `64GiB`, `500MiB`, `1048576` → bytes. For commander. */
export function parseSizeBytes(text: string): number {
  const match = /^(\d{1,9})(|KiB|MiB|GiB|TiB)$/.exec(text);
  const bytes = Number(match?.[1]) * (UNIT_BYTES.get(match?.[2] ?? '') ?? Number.NaN);
  if (!Number.isSafeInteger(bytes) || bytes < 1) {
    throw new InvalidArgumentError('expected a size such as 500MiB or 64GiB');
  }
  return bytes;
}

/**
 * Demands TLS off loopback: tokens and uploads would cross the network in the clear.
 * @throws SITECAST_TLS_REQUIRED, SITECAST_TLS_INCOMPLETE (badInput)
 */
export function checkTls(options: {
  listen: ListenAddress;
  tlsCert?: string | undefined;
  tlsKey?: string | undefined;
  behindTlsProxy?: boolean | undefined;
}): OriginSettings['tls'] {
  const { listen, tlsCert, tlsKey, behindTlsProxy } = options;
  if ((tlsCert === undefined) !== (tlsKey === undefined)) {
    throw new SitecastError('badInput', 'SITECAST_TLS_INCOMPLETE', '--tls-cert and --tls-key go together');
  }
  if (tlsCert !== undefined && tlsKey !== undefined) return { certPath: tlsCert, keyPath: tlsKey };
  if (isLoopback(listen.host) || behindTlsProxy === true) return undefined;
  throw new SitecastError(
    'badInput',
    'SITECAST_TLS_REQUIRED',
    `${listen.host} can be reached from other machines, and without TLS so could the API tokens`,
    {
      hint: 'Give --tls-cert and --tls-key, or --behind-tls-proxy where a proxy does TLS, or listen on 127.0.0.1.',
    },
  );
}

/** True where only this machine can connect. */
function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(?:\.\d{1,3}){3}$/.test(host);
}
