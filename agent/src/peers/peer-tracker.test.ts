import { SitecastError } from '@sitecast/shared/errors';
import type { PeerNotice } from '@sitecast/shared/api';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { expect, it } from 'vitest';
import type { Gateway, JsonAnswer } from '../ports.ts';
import { PeerTracker } from './peer-tracker.ts';

const { id } = new Identity(KeyPair.generate());
const notice: PeerNotice = {
  peer: { id, addresses: [`/ip4/192.0.2.7/tcp/7403/p2p/${id}`] },
  images: ['a'.repeat(64)],
  held: [7],
};
const heard = (): JsonAnswer => ({ status: 200, body: { peers: [] } });
const unknown = (): JsonAnswer => ({ status: 403, body: { code: 'SITECAST_NO_ASSIGNMENT' } });
const nothing = () => {
  throw new Error('not asked for here');
};
const gateway: Gateway = {
  url: 'http://192.0.2.1:7401',
  metadata: { fetch: nothing },
  targets: { fetch: nothing },
  chunks: { name: 'a gateway', has: nothing, get: nothing },
  getJson: nothing,
  postJson: nothing,
  waitForChange: nothing,
};

/**
 * Seconds between one telling and the next, rounded by what chance adds.
 * @param answer of the gateway, to the telling with this number; what it throws is thrown
 */
async function pausesOf(
  count: number,
  answer: (at: number) => JsonAnswer,
  onPause: (tracker: PeerTracker, at: number) => void = () => {},
): Promise<number[]> {
  const stop = new AbortController();
  const pauses: number[] = [];
  let told = 0;
  const tracker = new PeerTracker({
    gateways: {
      all: [gateway],
      post: async (_gateway, path, body) => {
        expect([path, body]).toEqual(['/site/v1/peers', notice]);
        told += 1;
        return answer(told);
      },
    },
    notice: () => notice,
    onPeers: () => {},
    sleep: async ms => {
      pauses.push(ms / 1000);
      onPause(tracker, pauses.length);
      if (pauses.length === count) stop.abort();
    },
  });
  await tracker.run(stop.signal);
  expect(told).toBe(count);
  return pauses;
}

function expectAbout(pauses: readonly number[], wanted: readonly number[]): void {
  expect(pauses).toHaveLength(wanted.length);
  for (const [at, seconds] of wanted.entries()) {
    expect(pauses[at]).toBeGreaterThanOrEqual(0.8 * seconds);
    expect(pauses[at]).toBeLessThanOrEqual(1.2 * seconds);
  }
}

it('tells a gateway that listens ever less often, every minute at last', async () => {
  expectAbout(await pausesOf(9, heard), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
});

it('tells one that is away, or does not know this device, every quarter of a minute at last', async () => {
  const away = () => {
    throw new SitecastError('unreachable', 'SITECAST_GATEWAY_UNREACHABLE', 'nobody is there');
  };
  expectAbout(await pausesOf(7, away), [1, 2, 4, 8, 15, 15, 15]);
  expectAbout(await pausesOf(6, unknown), [1, 2, 4, 8, 15, 15]);
  // Back again, it gets fewer notices again.
  expectAbout(await pausesOf(8, at => (at < 6 ? unknown() : heard())), [1, 2, 4, 8, 15, 15, 30, 60]);
});

it('does not pester an origin, which takes no such notice', async () => {
  const none = (): JsonAnswer => ({ status: 404, body: { code: 'SITECAST_NOT_FOUND' } });
  expectAbout(await pausesOf(7, none), [1, 2, 4, 8, 16, 32, 60]);
});

it('begins anew when it is nudged', async () => {
  const nudged = pausesOf(7, heard, (tracker, at) => {
    if (at === 4) tracker.nudge();
  });
  expectAbout(await nudged, [1, 2, 4, 8, 1, 2, 4]);
});
