import { SitecastError } from '@sitecast/shared/errors';
import { FairPool, type Lease, type NamedHosts, senderOf, TokenBuckets } from '@sitecast/shared/bounded';
import { MAX_CLOCK_SKEW_MS, NonceMemory, type Receiver, verifyHead } from '@sitecast/shared/http-signature';
import type { Context, MiddlewareHandler } from 'hono';
import { FORWARDED_HEADER, type GatewayEnv } from './context.ts';
import type { Assignment } from '@sitecast/shared/fleet';
import type { RelayedDocuments } from '../devices/relayed-documents.ts';

/** Signatures of long polls that are checked for one address in a second: 2,000 devices behind one router send 40 polls. */
const POLLS_PER_ADDRESS = { perS: 50, burst: 400 };

interface PollingDeviceDeps {
  /** Asked before any signature is verified. */
  isHere: (id: string) => boolean;
  receiver: Receiver;
  now: () => number;
}

/**
 * Finds out which device of the site sends a poll, where the device has signed it. A poll need not be signed, and agents of earlier versions
 * sign none: the answer is public, and no request is refused.
 * @returns undefined for every other request
 */
export function pollingDevice({
  isHere,
  receiver,
  now,
}: PollingDeviceDeps): (c: Context<GatewayEnv>) => Promise<string | undefined> {
  const nonces = new NonceMemory(2 * MAX_CLOCK_SKEW_MS);
  const addresses = new TokenBuckets({ ...POLLS_PER_ADDRESS, now });
  return async c => {
    const { url, method, headers } = c.req.raw;
    if (!headers.has('signature')) return undefined;
    if (!addresses.take(senderOf(c.env?.incoming?.socket.remoteAddress) ?? 'loopback')) return undefined;
    try {
      const request = { method, url, headers: Object.fromEntries(headers.entries()) };
      return (await verifyHead(request, { nowMs: now(), nonces, receiver, isWelcome: isHere })).id;
    } catch (error) {
      // Wrong, too old, or seen before: it proves nothing, and gets the public answer.
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  };
}

/** The address that counts for requests from this machine. */
const LOOPBACK = 'loopback';
/** The longest body of a request. */
export const MAX_BODY_BYTES = 1024 * 1024;
/** Bytes of the bodies in memory at one time, of devices that are known here. */
const MAX_BODY_MEMORY_BYTES = 32 * 1024 * 1024;
/** The same of all senders whose assignment is not known here. */
const MAX_STRANGERS_BODY_MEMORY_BYTES = 8 * 1024 * 1024;
/** The least that a body counts. */
const MIN_BODY_BYTES = 4096;
/** Bodies that one address may send at one time for keys that are not known here. */
const MAX_BODIES_PER_ADDRESS = 16;
/**
 * Signatures that are checked for one address in a second: a request's own, and those of the reports in it. Devices behind a router
 * share an address.
 */
const PER_ADDRESS = { perS: 50, burst: 400 };

interface SignedDeps {
  receiver: Receiver;
  now: () => number;
  /** Called with the device that signed a request. */
  heard: { note(id: string): void };
  assignments: Pick<RelayedDocuments<Assignment>, 'known'>;
  /** Whether an id must not be served any more. */
  isRevoked: (id: string) => boolean;
  /** Whether this gateway itself is revoked. */
  isOwnRevoked: () => boolean;
  /** Takes note of the addresses that known devices send from. */
  hosts: NamedHosts;
}

/** Lets signed requests pass, with the signer as `sender`. Reads the JSON body, bounded. */
export function signedJson({
  receiver,
  now,
  heard,
  assignments,
  isRevoked,
  isOwnRevoked,
  hosts,
}: SignedDeps): MiddlewareHandler<GatewayEnv> {
  const isKnown = async (id: string): Promise<boolean> => (await assignments.known(id)) !== undefined;
  const nonces = new NonceMemory(2 * MAX_CLOCK_SKEW_MS);
  const addresses = new TokenBuckets({ ...PER_ADDRESS, now });
  const hold = bodyMemory();
  return async (c, next) => {
    if (c.req.header(FORWARDED_HEADER) !== undefined)
      throw new SitecastError(
        'unreachable',
        'SITECAST_FORWARDED_ALREADY',
        'a gateway passes on what comes from devices, not from other gateways',
      );
    if (isOwnRevoked()) throw ownRevoked();
    const from = c.env?.incoming?.socket.remoteAddress;
    const address = addressOf(c, hosts) ?? LOOPBACK;
    if (!addresses.take(address))
      throw new SitecastError('unreachable', 'SITECAST_RATE_LIMITED', 'too many requests from this address');
    demandJson(c);
    const { url, method, headers } = c.req.raw;
    const { id: sender, checkBody } = await verifyHead(
      { method, url, headers: Object.fromEntries(headers.entries()) },
      { nowMs: now(), nonces, receiver, isWelcome: () => true, isKnown },
    );
    if (isRevoked(sender))
      throw new SitecastError('forbidden', 'SITECAST_REVOKED', 'this device was revoked');
    const lengthBytes = lengthOf(c);
    const isSenderKnown = await isKnown(sender);
    if (isSenderKnown && from !== undefined) hosts.name(from);
    const held = hold({ id: sender, address, isKnown: isSenderKnown }, lengthBytes, () =>
      c.env?.incoming?.destroy(),
    );
    try {
      const body = await readBody(c, lengthBytes);
      held.keep();
      checkBody(body);
      heard.note(sender);
      c.set('sender', sender);
      // The cost of checking signatures in the body.
      c.set('charge', count => {
        if (!addresses.take(address, count))
          throw new SitecastError(
            'unreachable',
            'SITECAST_RATE_LIMITED',
            'too many reports from this address',
          );
      });
      c.req.raw = new Request(url, { method, headers, body: new Uint8Array(body) });
      await next();
    } finally {
      held.release();
    }
  };
}

/** The address that a request counts for; undefined for a proxy on this machine, which speaks for many. */
export function addressOf(c: Context<GatewayEnv>, hosts: NamedHosts): string | undefined {
  const address = c.env?.incoming?.socket.remoteAddress;
  return senderOf(address) === undefined ? undefined : hosts.ownerOf(address);
}

/** Devices must go to another gateway: the origin takes nothing from this one any more. */
export function ownRevoked(): SitecastError {
  return new SitecastError(
    'unreachable',
    'SITECAST_GATEWAY_REVOKED',
    'the operator has revoked this gateway',
    {
      hint: 'Let it in again with a new --data and a new join token, or take it away.',
    },
  );
}

interface BodySender {
  id: string;
  address: string;
  isKnown: boolean;
}

/** Memory for bodies. Known devices have their own part, and in each part no sender is refused for what others hold. */
function bodyMemory(): (sender: BodySender, lengthBytes: number, end: () => void) => Lease {
  const known = new FairPool({ max: MAX_BODY_MEMORY_BYTES, minUnits: MIN_BODY_BYTES });
  const strangers = new FairPool({ max: MAX_STRANGERS_BODY_MEMORY_BYTES, minUnits: MIN_BODY_BYTES });
  const perAddress = new Map<string, number>();
  return ({ id, address, isKnown }, lengthBytes, end) => {
    const own = perAddress.get(address) ?? 0;
    // Any machine can make many keys: unknown senders are told apart by address.
    const lease = isKnown
      ? known.lease(id, lengthBytes, end)
      : own < MAX_BODIES_PER_ADDRESS
        ? strangers.lease(address, lengthBytes, end)
        : undefined;
    if (!lease)
      throw new SitecastError(
        'unreachable',
        'SITECAST_BUSY',
        'the gateway is receiving as much as it can hold',
      );
    if (isKnown) return lease;
    perAddress.set(address, own + 1);
    return {
      keep: () => lease.keep(),
      release: () => {
        lease.release();
        const left = (perAddress.get(address) ?? 1) - 1;
        if (left > 0) perAddress.set(address, left);
        else perAddress.delete(address);
      },
    };
  };
}

/** The announced length; without one, the longest counts. */
function lengthOf(c: Context<GatewayEnv>): number {
  const header = c.req.header('content-length');
  const lengthBytes = header !== undefined && /^\d{1,15}$/.test(header) ? Number(header) : MAX_BODY_BYTES;
  if (lengthBytes > MAX_BODY_BYTES) throw tooLarge();
  return lengthBytes;
}

function demandJson(c: Context<GatewayEnv>): void {
  const found = c.req.header('content-type')?.split(';')[0]?.trim().toLowerCase();
  if (found === 'application/json') return;
  throw new SitecastError(
    'badInput',
    'SITECAST_MEDIA_TYPE_UNSUPPORTED',
    'the body of this request must be application/json',
  );
}

async function readBody(c: Context<GatewayEnv>, maxBytes: number): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  let lengthBytes = 0;
  try {
    for await (const part of c.req.raw.body ?? []) {
      lengthBytes += part.length;
      if (lengthBytes > maxBytes) throw tooLarge();
      parts.push(part);
    }
  } catch (cause) {
    if (cause instanceof SitecastError) throw cause;
    throw new SitecastError('badInput', 'SITECAST_BODY_INCOMPLETE', 'the connection ended within the body', {
      cause,
    });
  }
  return Buffer.concat(parts, lengthBytes);
}

function tooLarge(): SitecastError {
  return new SitecastError(
    'tooLarge',
    'SITECAST_BODY_TOO_LARGE',
    `the body of this request may have at most ${MAX_BODY_BYTES} bytes`,
    { data: { maxBytes: MAX_BODY_BYTES } },
  );
}
