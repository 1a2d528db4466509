import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { memoryLog, until } from '../testing/harness.ts';
import { MAX_PEER_GATEWAYS, PeerGateways } from './peer-gateways.ts';

it('asks at most so many other gateways, and none again while it has not answered', async () => {
  const asked: string[] = [];
  const peerGateways = new PeerGateways({
    ownId: 'own',
    site: () => 'lisbon',
    book: { all: [] },
    configured: Array.from({ length: MAX_PEER_GATEWAYS + 5 }, (_, at) => `http://192.0.2.${at}`),
    isRevoked: () => false,
    client: {
      ask: async (url, signal) => {
        asked.push(url);
        // Called off at the end of the test.
        await sleep(60_000, undefined, { signal, ref: false }).catch(() => undefined);
        return undefined;
      },
      open: () => {
        throw new Error('nobody answered');
      },
    },
    log: memoryLog(),
  });
  const stop = new AbortController();
  const running = peerGateways.run(stop.signal);
  await until(() => asked.length >= MAX_PEER_GATEWAYS, 'all to be asked');
  await sleep(1200);
  expect(new Set(asked).size).toBe(MAX_PEER_GATEWAYS);
  expect(asked).toHaveLength(MAX_PEER_GATEWAYS);
  expect(peerGateways.liveCount).toBe(0);
  stop.abort();
  await running;
});
