import { parseBytes, parseEach, parseNetworkAddress, parseRate } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { parseWindow } from '@sitecast/shared/fleet';
import { isId } from '@sitecast/shared/identity';
import type { LogOptions } from '@sitecast/shared/log';
import { InvalidArgumentError } from 'commander';
import { MIN_WAN_BYTES_PER_S, type WanSettings } from './wan/wan-limits.ts';

/** The settings of `sitecast-gateway serve`. */
export interface GatewaySettings extends WanSettings, LogOptions {
  origin?: string;
  upstream?: string[];
  data: string;
  listen: { host: string; port: number };
  token?: string;
  tokenFile?: string;
  root?: string;
  /** PEM file of further authorities to trust. */
  ca?: string;
  site?: string;
  cacheBytes: number;
  memoryBytes: number;
  reserve: number;
  poll: number;
  gossipListen?: string[];
  gossipPeer?: string[];
  gossipAnnounce?: string[];
  /** Whether gateways and devices are discovered by multicast DNS. */
  mdns?: boolean;
  /** Whether chunks are exchanged with devices over libp2p. */
  peers?: boolean;
  /** A multiaddress. */
  peerListen?: string;
  lanUrl?: string[];
  siteGateway?: string[];
  /** Whether chunks are fetched before devices ask for them. */
  prefetch?: boolean;
  fleetKeyFile?: string;
  /** Bytes of chunks a day for each gateway of another site that is cut off from the origin; undefined: none. */
  fleetUpload?: number;
}

/** The least for `--fleet-upload`: a few of the longest chunks, for each request takes what one may have. */
const MIN_FLEET_UPLOAD_BYTES = 32 * 2 ** 20;

/** For `--fleet-upload`. */
export function parseFleetUpload(text: string): number {
  const bytes = parseBytes(text);
  if (bytes >= MIN_FLEET_UPLOAD_BYTES) return bytes;
  throw new InvalidArgumentError('expected at least 32MiB');
}

/** For `--wan-rate` and `--quiet-rate`. */
export const parseWanRate = parseRate(MIN_WAN_BYTES_PER_S);

/** `Mon-Fri 08:00-18:00`, unchanged. */
export function parseQuietHours(text: string): string {
  try {
    parseWindow(text);
    return text;
  } catch (error) {
    if (!(error instanceof SitecastError)) throw error;
    throw new InvalidArgumentError('expected hours such as "Mon-Fri 08:00-18:00, Sat 09:00-12:00"');
  }
}

/** An http or https URL without credentials, without a `/` at its end. */
export function parseUpstreamUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isPlain = url && /^https?:$/.test(url.protocol) && !url.username && !url.password && !url.search;
  if (!isPlain) throw new InvalidArgumentError('expected a URL such as https://updates.example.com');
  return url.href.replace(/\/+$/, '');
}

/** For options of which several URLs may be given. */
export const parseUrls = parseEach(parseUpstreamUrl);

/** For `--gossip-peer`: multiaddresses, each with the id of who is to be there. */
export const parseGossipPeers = parseEach(text => {
  const { address, id } = parseNetworkAddress(text);
  if (id !== undefined && isId(id)) return address;
  throw new InvalidArgumentError(
    'expected a multiaddress with the id of the gateway at its end, such as /ip4/10.20.0.5/tcp/7402/p2p/12D3KooW…: its log shows it at the start',
  );
});

/** The origin of the settings, or else of the join token; undefined where only other upstreams are named. */
export function originOf({ origin }: GatewaySettings, tokenOrigin: string | undefined): string | undefined {
  return origin ?? tokenOrigin?.replace(/\/+$/, '');
}

/**
 * The upstreams in their order: the origin, then the others.
 * @param first the origin
 * @throws SITECAST_UPSTREAM_MISSING (badInput)
 */
export function upstreamUrls(settings: GatewaySettings, first: string | undefined): string[] {
  const others = settings.upstream ?? [];
  const urls = [...new Set([...(first === undefined ? [] : [first]), ...others])];
  if (urls.length > 0) return urls;
  throw new SitecastError('badInput', 'SITECAST_UPSTREAM_MISSING', 'there is no origin to follow', {
    hint: 'Give --origin URL, or a join token, which names it.',
  });
}
