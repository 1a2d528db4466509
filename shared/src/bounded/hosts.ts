import { isIPv6 } from 'node:net';
import { lruCache } from './lru-cache.ts';

const IPV6_GROUPS_OF_A_HOST = 4;
const MAX_NAMED_HOSTS = 4096;
/** Devices and gateways are named anew within that time. */
const NAMED_FOR_MS = 30 * 60_000;
/** Who answers for this machine's own connections. */
const LOOPBACK = 'loopback';

/** As IPv4 where it's IPv4 in IPv6's clothes, without a zone. */
function plainAddress(address: string): string {
  const plain = address.startsWith('::ffff:') ? address.slice('::ffff:'.length) : address;
  return plain.split('%')[0] ?? plain;
}

/**
 * Whom an address stands for: of IPv6 the first 64 bits, for a host has all of the others to choose from (RFC 6177).
 * @returns undefined for this machine, on which a proxy may speak for many. It speaks from 127.0.0.1 or ::1: the rest of
 *   127.0.0.0/8 are addresses like others
 */
export function senderOf(address: string | undefined): string | undefined {
  if (address === undefined) return '';
  const plain = plainAddress(address);
  if (plain === '::1' || plain === '127.0.0.1') return undefined;
  if (!isIPv6(plain)) return plain;
  const [head = '', tail] = plain.split('::');
  const groups = head === '' ? [] : head.split(':');
  const rest = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = tail === undefined ? 0 : 8 - groups.length - rest.length;
  const all = [...groups, ...Array.from({ length: zeros }, () => '0'), ...rest];
  return all
    .slice(0, IPV6_GROUPS_OF_A_HOST)
    .map(group => group.padStart(4, '0'))
    .join(':');
}

/** Addresses at which somebody known was met, or is said to be by somebody who is believed. */
export class NamedHosts {
  readonly #named = lruCache<string, true>({ max: MAX_NAMED_HOSTS, ttl: NAMED_FOR_MS });

  name(address: string): void {
    this.#named.set(plainAddress(address), true);
  }

  has(address: string | undefined): boolean {
    return address !== undefined && this.#named.has(plainAddress(address));
  }

  /**
   * Who answers for what comes from an address. One that was named stands for itself: else the machines of an IPv6 network,
   * which has 64 bits in common, would answer for each other.
   */
  ownerOf(address: string | undefined): string {
    if (address !== undefined && this.has(address)) return plainAddress(address);
    return senderOf(address) ?? LOOPBACK;
  }
}
