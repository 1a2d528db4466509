import { setTimeout as sleep } from 'node:timers/promises';
import type { ChunkStore } from '@sitecast/shared/content';
import { expect, it } from 'vitest';
import { memoryLog, until } from '../testing/harness.ts';
import { MAX_PEER_GATEWAYS, PeerGateways } from './peer-gateways.ts';

it('asks a bounded number of other gateways, and none again before it has answered', async () => {
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
        // The test ends this wait.
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

it('requests no chunks for a while from a gateway that did not send one, and soon asks whether it lives', async () => {
  let nowMs = 0;
  let asked = 0;
  const nothing: ChunkStore = {
    name: 'a peer gateway',
    has: async () => false,
    get: async () => {
      throw new Error('nobody asks it');
    },
  };
  const peerGateways = new PeerGateways({
    ownId: 'own',
    site: () => 'lisbon',
    book: { all: [] },
    configured: ['http://192.0.2.1'],
    isRevoked: () => false,
    client: {
      ask: async () => {
        asked += 1;
        return { id: 'peer', site: 'lisbon' };
      },
      open: () => ({ fetched: nothing, held: nothing, close: () => {} }),
    },
    now: () => nowMs,
    log: memoryLog(),
  });
  const stop = new AbortController();
  const running = peerGateways.run(stop.signal);
  await until(() => peerGateways.able.length === 1, 'the other gateway to be there');
  peerGateways.rest('peer');
  peerGateways.rest('unknown');
  expect([peerGateways.able.length, peerGateways.liveCount, asked]).toEqual([0, 1, 1]);
  // The clock stands still, so no request is due by time.
  await until(() => asked === 2, 'a question whether it lives');
  nowMs = 14_999;
  expect(peerGateways.able).toHaveLength(0);
  nowMs = 15_001;
  expect(peerGateways.able).toHaveLength(1);
  stop.abort();
  await running;
});
