import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { memoryLog, until } from '../testing/world.ts';
import { GatewayBook } from './gateway-book.ts';
import { Introduction, STRANGERS } from './introduction.ts';

it('asks the origin at once for a gateway that it does not know, but not for all who knock', async () => {
  let asked = 0;
  const introduction = new Introduction({
    upstreams: {
      ask: async () => {
        asked += 1;
        return { status: 200, json: { origin: [], gateways: [] } };
      },
    },
    isEnrolled: () => true,
    ownAddresses: () => ({ fleet: [], urls: [] }),
    book: await GatewayBook.open({ load: async () => [], save: async () => undefined }),
    now: () => 0,
    log: memoryLog(),
  });
  const stop = new AbortController();
  const running = introduction.run(stop.signal);
  await until(() => asked === 1, 'the first time');
  for (let knock = 0; knock < 50; knock += 1) {
    introduction.metStranger();
    await sleep(5);
  }
  expect(asked).toBe(1 + STRANGERS.burst);
  stop.abort();
  await running;
});
