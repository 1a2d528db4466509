import type { KnownGateway } from './peer-book.ts';

/**
 * With so many connections nobody else is dialled: the origin and three others. As many again are dialled by others, on average,
 * and that's enough for a mesh (4 neighbours); each connection costs pings.
 */
export const ENOUGH_CONNECTIONS = 4;

interface Acquaintances {
  own: string;
  /** Addresses from the settings: always kept connected. */
  named: readonly string[];
  /** Ids. */
  connected: readonly string[];
  /** Those heard of last come last. */
  known: readonly KnownGateway[];
}

/** Of a multiaddress with an id at its end. */
export function idOf(address: string): string {
  return address.slice(address.lastIndexOf('/') + 1);
}

/** @returns for each one to be dialled now, its addresses in the order in which they are tried */
export function peersToDial({ own, named, connected, known }: Acquaintances): string[][] {
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
