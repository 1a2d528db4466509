import { BlockList, isIP } from 'node:net';
import { InvalidArgumentError } from 'commander';

/** The option of every command that connects to a server: flags and description. */
export const CA_OPTION = [
  '--ca <file>',
  'certificates of authorities to trust for TLS besides those that are trusted anyhow, PEM',
] as const;

/** A parser for a whole number within bounds, both included. */
export function parseBoundedInteger(min: number, max: number): (text: string) => number {
  return text => {
    const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(value) || value < min || value > max) {
      throw new InvalidArgumentError(`expected a whole number from ${min} to ${max}`);
    }
    return value;
  };
}

const UNIT_MS = new Map([
  ['ms', 1],
  ['s', 1000],
  ['m', 60_000],
  ['h', 3_600_000],
  ['d', 86_400_000],
]);

/** Parses a duration, `90s`, `15m`, `4h` or `14d`. @returns milliseconds */
export function parseDurationMs(text: string): number {
  const match = /^(\d{1,9})(ms|s|m|h|d)$/.exec(text);
  const unitMs = UNIT_MS.get(match?.[2] ?? '');
  if (!match || unitMs === undefined)
    throw new InvalidArgumentError('expected a duration such as 90s, 15m, 4h or 14d');
  return Number(match[1]) * unitMs;
}

const SHOWN_UNIT_MS = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['min', 60_000],
  ['s', 1000],
  ['ms', 1],
] as const;

/** Formats a duration for people: the largest unit and the next, rounded; no milliseconds above a second. `15 s`, `1 h 30 min`, `14 d`. */
export function formatDurationMs(ms: number): string {
  const largest = SHOWN_UNIT_MS.findIndex(([, unitMs]) => ms >= unitMs);
  const [, nextMs] = SHOWN_UNIT_MS[largest + 1] ?? ['ms', 1];
  const finestMs = ms >= 1000 ? Math.max(1000, nextMs) : nextMs;
  let restMs = largest < 0 ? 0 : Math.round(ms / finestMs) * finestMs;
  const parts = SHOWN_UNIT_MS.map(([unit, unitMs]) => {
    const count = Math.floor(restMs / unitMs);
    restMs -= count * unitMs;
    return count > 0 ? `${count} ${unit}` : '';
  });
  return parts.filter(part => part !== '').join(' ') || '0 s';
}

const UNIT_BYTES = new Map([
  ['', 1],
  ['B', 1],
  ['KiB', 2 ** 10],
  ['MiB', 2 ** 20],
  ['GiB', 2 ** 30],
  ['TiB', 2 ** 40],
]);

/** Parses a size, `20GiB`, `512MiB` or `1048576`. @returns bytes */
export function parseBytes(text: string): number {
  const match = /^(\d{1,15})\s*(B|KiB|MiB|GiB|TiB|)$/.exec(text);
  const bytes = Number(match?.[1]) * (UNIT_BYTES.get(match?.[2] ?? '') ?? Number.NaN);
  if (!Number.isSafeInteger(bytes)) throw new InvalidArgumentError('expected a size such as 512MiB or 20GiB');
  return bytes;
}

const UNIT_BYTES_PER_S = new Map([
  ['kbit', 1e3 / 8],
  ['Mbit', 1e6 / 8],
  ['Gbit', 1e9 / 8],
]);
const BITS_PER_BYTE = 8;

/** A parser of rates, `10Mbit`, `512kbit` or `1.5Mbit/s`. It returns bytes per second and refuses less than the given minimum. */
export function parseRate(leastBytesPerS: number): (text: string) => number {
  return text => {
    const match = /^(\d{1,9}(?:\.\d{1,3})?)\s*(kbit|Mbit|Gbit)(?:\/s)?$/.exec(text);
    const bytesPerS = Number(match?.[1]) * (UNIT_BYTES_PER_S.get(match?.[2] ?? '') ?? Number.NaN);
    if (!(bytesPerS >= leastBytesPerS)) {
      const least = `${(leastBytesPerS * BITS_PER_BYTE) / 1e3}kbit`;
      throw new InvalidArgumentError(`expected a rate such as 10Mbit or 512kbit, ${least} at the least`);
    }
    return bytesPerS;
  };
}

/** Parses a percentage, `5%` or `0.5%`. @returns basis points (500, 50) */
export function parsePercent(text: string): number {
  const match = /^(\d{1,3}(?:\.\d{1,2})?)%?$/.exec(text);
  const basisPoints = match ? Math.round(Number(match[1]) * 100) : Number.NaN;
  if (!(basisPoints >= 0 && basisPoints <= 10_000))
    throw new InvalidArgumentError('expected a percentage such as 5%');
  return basisPoints;
}

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

/** Where a server listens. */
export interface ListenAddress {
  host: string;
  /** 0: any free one. */
  port: number;
}

/** Parses `127.0.0.1:7401`, `[::1]:7401`, or `7401` on loopback. */
export function parseListen(text: string): ListenAddress {
  const match = /^(?:(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):)?(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port > 65_535)
    throw new InvalidArgumentError('expected HOST:PORT, such as 127.0.0.1:7401 or [::1]:7401');
  return { host: match[1] ?? match[2] ?? '127.0.0.1', port };
}

/** Likewise, of addresses that no other machine can reach. */
export function parseLoopbackListen(text: string): ListenAddress {
  const address = parseListen(text);
  if (
    address.host === 'localhost' ||
    loopback.check(address.host, isIP(address.host) === 6 ? 'ipv6' : 'ipv4')
  )
    return address;
  throw new InvalidArgumentError('expected an address of this machine alone, such as 127.0.0.1:9404');
}

/** Parses `192.0.2.7:7403`, `[::]:7403` or `7403`. @returns the multiaddress */
export function parsePeerListen(text: string): string {
  const match = /^(?:(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):)?(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  const host = match?.[1] ?? match?.[2] ?? '0.0.0.0';
  if (!match || port > 65_535 || isIP(host) === 0)
    throw new InvalidArgumentError('expected an address and a port such as 0.0.0.0:7403');
  return `/ip${isIP(host)}/${host}/tcp/${port}`;
}

/** A multiaddress over TCP: network, host, port, and perhaps the id of who is there. */
const NETWORK_ADDRESS =
  /^(?:\/ip6zone\/[^/]{1,64})?\/(ip4|ip6|dns|dns4|dns6)\/([^/]{1,253})\/tcp\/(\d{1,5})(?:\/p2p\/([^/]{1,100}))?$/;

/** Parses `/ip4/0.0.0.0/tcp/7402` or `/dns4/north.example.com/tcp/7402`, with an id at its end or without. @returns the same, and the id */
export function parseNetworkAddress(text: string): { address: string; id: string | undefined } {
  const [, network = '', host = '', port, id] = NETWORK_ADDRESS.exec(text) ?? [];
  const version = { ip4: 4, ip6: 6 }[network] ?? 0;
  const isHost = version === 0 ? /^[A-Za-z0-9.-]+$/.test(host) : isIP(host) === version;
  if (/\/udp\//.test(text))
    throw new InvalidArgumentError(
      'expected a TCP address, such as /ip4/0.0.0.0/tcp/7402: UDP (QUIC) is not spoken',
    );
  if (!isHost || Number(port) > 65_535)
    throw new InvalidArgumentError(
      'expected a multiaddress such as /ip4/0.0.0.0/tcp/7402 or /dns4/north.example.com/tcp/7402',
    );
  return { address: text, id };
}

/** For `--gossip-listen` and `--gossip-announce`, each of which may be given several times. */
export const parseNetworkAddresses = parseEach(text => parseNetworkAddress(text).address);

/** A parser for an option of which several values may be given: it parses each. */
export function parseEach<T>(
  parse: (text: string) => T,
): (text: string, previous: readonly T[] | undefined) => T[] {
  return (text, previous = []) => [...previous, parse(text)];
}
