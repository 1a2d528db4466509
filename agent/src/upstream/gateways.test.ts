import { expect, it } from 'vitest';
import type { Gateway } from '../ports.ts';
import { Gateways, noGateway } from './gateways.ts';

const named = (url: string): Gateway => {
  const unused = (): never => {
    throw new Error('it is only named here');
  };
  const fetcher = { fetch: unused };
  const chunks = { name: url, has: unused, get: unused };
  return {
    url,
    metadata: fetcher,
    targets: fetcher,
    chunks,
    frameBytes: unused,
    getJson: unused,
    postJson: unused,
    waitForChange: unused,
  };
};

/** Two gateways, of which the first one fails after so long. */
function gatewaysWhoseFirstFails() {
  let nowMs = 0;
  const gateways = new Gateways(
    [named('a'), named('b')],
    () => 0,
    () => nowMs,
  );
  const asked: string[] = [];
  return {
    asked,
    pass: (ms: number) => {
      nowMs += ms;
    },
    ask: async (costMs: number) => {
      asked.length = 0;
      await gateways.each(async ({ url }) => {
        asked.push(url);
        if (url === 'b') return;
        nowMs += costMs;
        throw noGateway(url, 'it hangs');
      });
    },
  };
}

it('asks a gateway that hung last, for ten times as long as it cost', async () => {
  const { asked, ask, pass } = gatewaysWhoseFirstFails();
  await ask(30_000);
  expect(asked).toEqual(['a', 'b']);
  pass(299_999);
  await ask(30_000);
  expect(asked).toEqual(['b']);
  pass(1);
  await ask(30_000);
  expect(asked).toEqual(['a', 'b']);
});

it('lets no gateway rest for more than ten minutes, and none that failed at once', async () => {
  const { asked, ask, pass } = gatewaysWhoseFirstFails();
  await ask(120_000);
  pass(10 * 60_000);
  await ask(999);
  expect(asked).toEqual(['a', 'b']);
  await ask(999);
  expect(asked).toEqual(['a', 'b']);
});
