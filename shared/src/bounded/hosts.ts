import { isIPv6 } from 'node:net';
import { lruCache } from './lru-cache.ts';

const IPV6_GROUPS_OF_A_HOST = 4;
const MAX_NAMED_HOSTS = 4096;
/** Devices and gateways name themselves again within this time. */
const NAMED_FOR_MS = 30 * 60_000;
/** The owner of connections from this machine. */
const LOOPBACK = 'loopback';

/** The address without a zone. An IPv4 address mapped into IPv6 becomes IPv4. */
function plainAddress(address: string): string {
  const plain = address.startsWith('::ffff:') ? address.slice('::ffff:'.length) : address;
  const zone = plain.indexOf('%');
  return zone < 0 ? plain : plain.slice(0, zone);
}

/**
 * The sender that an address belongs to. Of IPv6 it is the first 64 bits, because one host can use all addresses below them (RFC 6177).
 * @returns undefined for this machine, on which a proxy may serve many clients. It connects from 127.0.0.1 or ::1; the rest of
 * 127.0.0.0/8 are addresses like others
 */
export function senderOf(address: string | undefined): string | undefined {
  return address === undefined ? '' : senderOfPlain(plainAddress(address));
}

function senderOfPlain(plain: string): string | undefined {
  if (plain === '::1' || plain === '127.0.0.1') return undefined;
  if (!plain.includes(':') || !isIPv6(plain)) return plain;
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

/** Addresses of known devices and gateways, seen directly or reported by a trusted source. */
export class NamedHosts {
  readonly #named = lruCache<string, true>({ max: MAX_NAMED_HOSTS, ttl: NAMED_FOR_MS });

  name(address: string): void {
    this.#named.set(plainAddress(address), true);
  }

  has(address: string | undefined): boolean {
    return address !== undefined && this.#named.has(plainAddress(address));
  }

  /**
   * The owner of what comes from an address. A named address is counted by itself: otherwise the machines of one IPv6 network, which share
   * 64 bits, would be counted together.
   */
  ownerOf(address: string | undefined): string {
    if (address === undefined) return '';
    const plain = plainAddress(address);
    return this.#named.has(plain) ? plain : (senderOfPlain(plain) ?? LOOPBACK);
  }
}
