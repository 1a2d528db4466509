import type { NetworkInterfaceInfo } from 'node:os';
import { MAX_GATEWAY_URLS } from '@sitecast/shared/api';

/**
 * URLs at which other machines reach this gateway, as far as it can know.
 * @param url where it listens; a wildcard stands for each address of the machine
 */
export function lanUrls(
  url: string,
  interfaces: readonly (Pick<NetworkInterfaceInfo, 'address' | 'family' | 'internal'> | undefined)[],
): string[] {
  const { hostname, port, origin } = new URL(url);
  if (hostname !== '0.0.0.0' && hostname !== '[::]') return [origin];
  return interfaces
    .filter(found => found !== undefined)
    .filter(({ address, internal }) => !internal && !isLinkLocal(address))
    .filter(({ family }) => family === 'IPv4' || hostname === '[::]')
    .slice(0, MAX_GATEWAY_URLS)
    .map(({ address, family }) => `http://${family === 'IPv6' ? `[${address}]` : address}:${port || '80'}`);
}

/** Such an address is valid on one link only, which the URL would have to name. */
function isLinkLocal(address: string): boolean {
  return /^fe[89ab]/i.test(address) || address.startsWith('169.254.');
}
