import { once } from 'node:events';
import { createServer } from 'node:net';
import { SitecastError } from '@sitecast/shared/errors';
import { afterAll, afterEach, expect, it } from 'vitest';
import { removeTemporaryDirectories, type TestGateway, until } from './testing/harness.ts';
import { NeighbourHarness } from './testing/neighbours.ts';
import { noise } from './testing/site-with-deltas.ts';
import { Troubles } from './troubles.ts';

const harness = new NeighbourHarness();
afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

const has = async (gateway: TestGateway, code: string): Promise<boolean> =>
  (await gateway.metric(`sitecast_trouble{code="${code}"}`)) === 1;

it('a gateway whose port for devices is taken says so, and listens once it is free', async () => {
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const address = taken.address();
  const place = `/ip4/127.0.0.1/tcp/${typeof address === 'object' ? address?.port : ''}`;
  try {
    const origin = await harness.published(noise(4, 1));
    const gateway = await harness.gateway(origin, { peers: true, peerListen: place });
    expect(await has(gateway, 'SITECAST_PEER_LISTEN')).toBe(true);
    expect(gateway.log.lines).toContainEqual({
      level: 'error',
      fields: { code: 'SITECAST_PEER_LISTEN', hint: expect.stringContaining('--peer-listen') },
      message: expect.stringMatching(/EADDRINUSE/),
    });
    // The origin hears of it, with the version that is served.
    await until(() => (origin.presence ?? []).length > 0, 'the origin to be told');
    expect(origin.presence?.at(-1)).toMatchObject({
      timestampVersion: await gateway.metric('sitecast_role_version{role="timestamp"}'),
      troubles: [{ code: 'SITECAST_PEER_LISTEN', detail: expect.stringContaining(place) }],
    });
    taken.close();
    await until(async () => !(await has(gateway, 'SITECAST_PEER_LISTEN')), 'it to listen');
    const { fields } =
      gateway.log.lines.findLast(({ message }) => message.includes('takes part in the chunk exchange')) ?? {};
    expect(fields).toEqual({ addresses: [`${place}/p2p/${gateway.id}`] });
  } finally {
    taken.close();
  }
});

it('two gateways with different keys of the fleet both warn of it, with what to compare', async () => {
  const origin = await harness.published(noise(4, 1));
  const { gateway, address } = await harness.connected(origin);
  const other = new NeighbourHarness();
  try {
    const { gateway: foreign } = await other.connected(origin, { gossipPeer: [address] });
    for (const each of [gateway, foreign]) {
      await until(() => has(each, 'SITECAST_FLEET_KEY_DIFFERS'), 'it to tell');
      expect(each.log.lines).toContainEqual({
        level: 'warn',
        fields: expect.objectContaining({
          code: 'SITECAST_FLEET_KEY_DIFFERS',
          hint: expect.stringContaining('--fleet-key-file'),
        }),
        message: expect.any(String),
      });
    }
  } finally {
    await other.closeAll();
  }
});

it("a stranger's garbage does not hide what is wrong with a gateway that the settings name", () => {
  let nowMs = 0;
  const troubles = new Troubles(() => nowMs);
  const differs = (who: string): SitecastError =>
    new SitecastError('unreachable', 'SITECAST_FLEET_KEY_DIFFERS', who);
  const told = (): string[] => troubles.all.map(({ detail }) => detail);
  troubles.note(differs('a scanner'), { yields: true });
  expect(told()).toEqual(['a scanner']);
  troubles.note(differs('a named gateway'));
  troubles.note(differs('a scanner'), { yields: true });
  expect(told()).toEqual(['a named gateway']);
  // It is no longer noted: its key was mended.
  nowMs += 16 * 60_000;
  troubles.note(differs('a scanner'), { yields: true });
  expect(told()).toEqual(['a scanner']);
});
