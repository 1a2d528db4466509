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
  frameBytes: nothing,
  getJson: nothing,
  postJson: nothing,
  waitForChange: nothing,
};

/**
 * Seconds between announcements, rounded so that the random part vanishes.
 * @param answer the gateway's answer to the announcement with this number; an error that it throws is thrown
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

it('announces itself to a gateway that answers less and less often, in the end every minute', async () => {
  expectAbout(await pausesOf(9, heard), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
});

it('announces itself to an unreachable gateway, or one that does not know the device, four times a minute in the end', async () => {
  const away = () => {
    throw new SitecastError('unreachable', 'SITECAST_GATEWAY_UNREACHABLE', 'nobody is there');
  };
  expectAbout(await pausesOf(7, away), [1, 2, 4, 8, 15, 15, 15]);
  expectAbout(await pausesOf(6, unknown), [1, 2, 4, 8, 15, 15]);
  // The gateway is back and gets fewer announcements again.
  expectAbout(await pausesOf(8, at => (at < 6 ? unknown() : heard())), [1, 2, 4, 8, 15, 15, 30, 60]);
});

it('announces itself rarely to an origin, which has no route for it', async () => {
  const none = (): JsonAnswer => ({ status: 404, body: { code: 'SITECAST_NOT_FOUND' } });
  expectAbout(await pausesOf(7, none), [1, 2, 4, 8, 16, 32, 60]);
});

it('starts over when it is nudged', async () => {
  const nudged = pausesOf(7, heard, (tracker, at) => {
    if (at === 4) tracker.nudge();
  });
  expectAbout(await nudged, [1, 2, 4, 8, 1, 2, 4]);
});
