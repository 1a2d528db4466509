import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { memoryLog, until } from '../testing/harness.ts';
import { PeerBook } from './peer-book.ts';
import { GatewayRegistration, STRANGERS } from './gateway-registration.ts';

it('asks the origin at once about an unknown gateway, but not about each of many', async () => {
  let asked = 0;
  const registration = new GatewayRegistration({
    upstreams: {
      ask: async () => {
        asked += 1;
        return { status: 200, json: { origin: [], gateways: [] } };
      },
    },
    isEnrolled: () => true,
    fleetAddresses: () => [],
    book: await PeerBook.open({ load: async () => [], save: async () => undefined }),
    now: () => 0,
    log: memoryLog(),
  });
  const stop = new AbortController();
  const running = registration.run([], stop.signal);
  await until(() => asked === 1, 'the first time');
  for (let knock = 0; knock < 50; knock += 1) {
    registration.onUnknownGateway();
    await sleep(5);
  }
  expect(asked).toBe(1 + STRANGERS.burst);
  stop.abort();
  await running;
});
