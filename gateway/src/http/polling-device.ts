import { SitecastError } from '@sitecast/shared/errors';
import { senderOf, TokenBuckets } from '@sitecast/shared/bounded';
import { MAX_CLOCK_SKEW_MS, NonceMemory, verifyHead } from '@sitecast/shared/http-signature';
import type { Context } from 'hono';
import type { GatewayEnv } from './context.ts';

/** Signatures of long polls that are checked for one address in a second: 2,000 devices behind one router send 40 polls. */
const PER_ADDRESS = { perS: 50, burst: 400 };

interface PollingDeviceDeps {
  /** Asked before any signature is verified. */
  isHere: (id: string) => boolean;
  now: () => number;
}

/**
 * Finds out which device of the site sends a poll, where the device has signed it. A poll need not be signed, and agents of earlier versions
 * sign none: the answer is public, and no request is refused.
 * @returns undefined for every other request
 */
export function pollingDevice({
  isHere,
  now,
}: PollingDeviceDeps): (c: Context<GatewayEnv>) => Promise<string | undefined> {
  const nonces = new NonceMemory(2 * MAX_CLOCK_SKEW_MS);
  const addresses = new TokenBuckets({ ...PER_ADDRESS, now });
  return async c => {
    const { url, method, headers } = c.req.raw;
    if (!headers.has('signature')) return undefined;
    if (!addresses.take(senderOf(c.env?.incoming?.socket.remoteAddress) ?? 'loopback')) return undefined;
    try {
      const request = { method, url, headers: Object.fromEntries(headers.entries()) };
      return (await verifyHead(request, { nowMs: now(), nonces, isWelcome: isHere })).id;
    } catch (error) {
      // Wrong, too old, or seen before: it proves nothing, and gets the public answer.
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  };
}
