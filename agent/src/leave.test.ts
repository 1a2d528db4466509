import { randomBytes } from 'node:crypto';
import { ChunkServer, HaveMap } from '@sitecast/shared/swarm';
import { until } from '@sitecast/shared/testing';
import { MemoryStore, newIdentity, Nodes } from '@sitecast/shared/swarm/testing';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { CycleResult } from './state/status.ts';
import { type DeviceChanges, TestDevice } from './testing/device.ts';
import { AgentHarness } from './testing/harness.ts';
import { nextTurn } from './update/turns.ts';

const KIB = 1024;
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

// A device that knows its order and whose only gateway is gone: when it goes down. Its clocks are the test's.

let harness: AgentHarness;
let monotonicMs: number;
let rollout: string;
let image: Buffer;
beforeEach(async () => {
  image = randomBytes(32 * KIB);
  harness = await AgentHarness.open({ images: [randomBytes(32 * KIB)] });
  monotonicMs = 0;
  await open();
  await harness.device.cycle();
});
afterEach(() => harness.close());

const open = (changes: DeviceChanges = {}): Promise<void> =>
  harness.device.open({
    isOpenToPeers: true,
    isSynchronised: true,
    monotonicMs: () => monotonicMs,
    ...changes,
  });

/** The order is known and the slot verified; then the gateway goes. */
async function orderAndCut(
  terms: { allowWithoutGateway?: boolean } = { allowWithoutGateway: true },
  answer: () => { granted: boolean; retryAfterMs?: number } | undefined = () => undefined,
): Promise<void> {
  harness.fleet.addRelease({ counter: 2, image });
  harness.fleet.camera.rollouts = [];
  const changes = { offlineForMs: 7 * DAY_MS, maxDownBasisPoints: 2500, ...terms };
  rollout = harness.fleet.addRollout(2, changes).id;
  await harness.fleet.publishAll();
  const lease = answer();
  if (lease) harness.gateway.lease = () => lease;
  // The gateway goes before it says anything about a lease.
  else harness.gateway.misbehave = path => (path.includes('/site/v1/leases') ? 'drop' : undefined);
  await harness.device.cycle();
  await harness.gateway.close();
}

/** No gateway answers while the device tries once a minute. */
async function stayAlone(forMs: number): Promise<void> {
  for (const endMs = monotonicMs + forMs; monotonicMs < endMs; ) {
    monotonicMs += 10 * MINUTE_MS;
    await harness.device.check();
  }
}

const turnOf = (knownDevices = 1) =>
  nextTurn({ rollout, device: harness.device.id, knownDevices }, Date.now() + 2 * HOUR_MS);

/** The same device at another time. It was restarted, so half an hour has to be watched again. */
async function at(ms: number, changes: DeviceChanges = {}): Promise<void> {
  await harness.device.close();
  await open({ clockOffsetMs: ms - Date.now(), ...changes });
  await stayAlone(40 * MINUTE_MS);
}

const waiting = (waitingFor: string, code: string, text = ''): object => ({
  state: 'waiting',
  waitingFor,
  reason: { code, message: expect.stringContaining(text) },
});
const cycle = (): Promise<CycleResult> => harness.device.cycle();

it('in its turn, after 6 hours without a gateway, and not before', async () => {
  await orderAndCut();
  await stayAlone(5 * HOUR_MS);
  expect(await cycle()).toMatchObject(
    waiting('lease', 'SITECAST_LEASE_UNREACHABLE', 'without a gateway it may go down by turns'),
  );
  await stayAlone(2 * HOUR_MS);
  const turn = turnOf();
  await at(turn.beginMs - HOUR_MS);
  expect(await cycle()).toMatchObject(
    waiting('turn', 'SITECAST_WAITING_TURN', new Date(turn.beginMs).toISOString()),
  );
  await at(turn.beginMs + 1000);
  expect(await cycle()).toMatchObject({ state: 'completed' });
  expect(await harness.device.slot('A')).toEqual(image);
  expect(harness.device.parts.stateFile.current.booted).toBe('A');
});

it.each([{}, { allowWithoutGateway: false }])('never where the order says %o', async terms => {
  await orderAndCut(terms);
  await stayAlone(7 * HOUR_MS);
  await at(turnOf().beginMs + 1000);
  const result = await cycle();
  expect(result).toMatchObject(waiting('lease', 'SITECAST_LEASE_UNREACHABLE'));
  expect(result.reason?.message).not.toContain('by turns');
});

it('never after a gateway has said no or "not now" to this rollout, also over a restart', async () => {
  await orderAndCut({ allowWithoutGateway: true }, () => ({ granted: false, retryAfterMs: 5000 }));
  await stayAlone(7 * HOUR_MS);
  await at(turnOf().beginMs + 1000);
  expect(await cycle()).toMatchObject(waiting('lease', 'SITECAST_LEASE_UNREACHABLE'));
  expect(harness.device.parts.stateFile.current.rollouts.at(-1)).toMatchObject({
    id: rollout,
    leaseRefused: true,
  });
});

it('not by a clock that nothing vouches for', async () => {
  await orderAndCut();
  await stayAlone(7 * HOUR_MS);
  for (const isSynchronised of [false, undefined]) {
    await at(turnOf().beginMs + 1000, { isSynchronised });
    expect(await cycle()).toMatchObject(waiting('time', 'SITECAST_WAITING_TIME'));
  }
});

it('not while more devices that a gateway has named are out of reach than may be down', async () => {
  const away = Array.from({ length: 2 }, () => {
    const { id } = newIdentity();
    return { id, addresses: [`/ip4/127.0.0.1/tcp/9/p2p/${id}`] };
  });
  harness.device.parts.exchange?.noteNamed(away);
  await orderAndCut();
  await stayAlone(7 * HOUR_MS);
  await at(turnOf(3).beginMs + 1000);
  expect(await cycle()).toMatchObject(waiting('peers', 'SITECAST_WAITING_PEERS', '2 of 2 other devices'));
});

it('counts as up what answers, also a device of an earlier release, and as away what is busy or gone', async () => {
  const other = await TestDevice.create([harness.gateway.url], harness.fleet.rootBytes);
  const nodes = new Nodes();
  try {
    await other.open({ isOpenToPeers: true });
    await other.cycle();
    // It knows no signed files, and answers about chunks.
    const earlier = await nodes.site();
    const store = new MemoryStore();
    const mayServe = (): boolean => true;
    await new ChunkServer({ node: earlier, store, haveMap: new HaveMap(), mayServe }).start();
    const { id } = newIdentity();
    const gone = { id, addresses: [`/ip4/127.0.0.1/tcp/9/p2p/${id}`] };
    const { exchange } = harness.device.parts;
    const selfOf = () => other.parts.exchange?.self ?? gone;
    exchange?.noteNamed([selfOf(), { id: earlier.id, addresses: earlier.addresses }, gone]);
    expect(exchange?.knownDevices).toBe(4);
    const { signal } = new AbortController();
    // On a machine that is busy itself one may answer too late at first.
    const untilAway = (named: number, away: number): Promise<void> =>
      until(`${away} of ${named} to be away`, async () => {
        const found = await exchange?.outOfReach(signal);
        return found?.named === named && found.away === away;
      });
    await untilAway(3, 1);
    await other.close();
    await other.open({ isOpenToPeers: true, settings: { hooks: { serve: 'exit 1' } } });
    exchange?.noteNamed([selfOf()]);
    await untilAway(3, 2);
    await harness.fleet.revoke(id);
    await harness.device.cycle();
    await untilAway(2, 1);
  } finally {
    await other.remove();
    await nodes.close();
  }
});

it('not where it has no peers, for then it sees nothing of what others do', async () => {
  await orderAndCut();
  await stayAlone(7 * HOUR_MS);
  await at(turnOf().beginMs + 1000, { isOpenToPeers: false });
  expect(await cycle()).toMatchObject(waiting('lease', 'SITECAST_LEASE_UNREACHABLE'));
});

it('asks a gateway that is back, in its turn, too', async () => {
  await orderAndCut();
  await stayAlone(7 * HOUR_MS);
  await at(turnOf().beginMs + 1000);
  harness.gateway.misbehave = undefined;
  harness.gateway.lease = () => ({ granted: false, retryAfterMs: 5000 });
  await harness.gateway.listen();
  expect(await cycle()).toMatchObject(waiting('lease', 'SITECAST_LEASE_DENIED'));
});
