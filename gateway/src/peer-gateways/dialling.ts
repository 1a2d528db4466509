import type { KnownGateway } from './peer-book.ts';

/**
 * With so many connections, the origin and three others, a gateway dials no more. Others dial it as often on average, and that is enough
 * for a mesh (4 neighbours). Each connection costs pings.
 */
export const ENOUGH_CONNECTIONS = 4;

interface KnownPeers {
  own: string;
  /** Addresses from the settings: always kept connected. */
  named: readonly string[];
  /** Ids. */
  connected: readonly string[];
  /** The newest come last. */
  known: readonly KnownGateway[];
}

/** The id at the end of a multiaddress. */
export function idOf(address: string): string {
  return address.slice(address.lastIndexOf('/') + 1);
}

/** @returns for each gateway to be dialled now, its addresses in the order in which they are tried */
export function peersToDial({ own, named, connected, known }: KnownPeers): string[][] {
  const here = new Set([own, ...connected]);
  const wanted = named.filter(address => !here.has(idOf(address))).map(address => [address]);
  const places = Math.max(0, ENOUGH_CONNECTIONS - connected.length - wanted.length);
  const namedIds = new Set(named.map(idOf));
  const others = known
    .filter(({ id, fleet }) => fleet.length > 0 && !here.has(id) && !namedIds.has(id))
    .reverse()
    .slice(0, places);
  return [...wanted, ...others.map(({ fleet }) => fleet)];
}
