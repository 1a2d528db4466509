import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Identity } from '@sitecast/shared/identity';
import { type Fault, faultAt, FleetRepository, OriginRecords } from '@sitecast/shared/testing/origin';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HttpGateway } from '../adapters/http-gateway.ts';
import { systemClock } from '../adapters/system-clock.ts';
import { FakeGateway } from '../testing/fake-gateway.ts';
import { Gateways } from '../upstream/gateways.ts';
import { KnownGateways } from '../upstream/known-gateways.ts';
import { Leases } from './leases.ts';
import { CycleEnd } from './result.ts';

const HOUR_MS = 3_600_000;
const ROUTE = '/site/v1/leases';

let directory: string;
let first: FakeGateway;
let second: FakeGateway;
let leases: Leases;
let nowMs = 0;
const { signal } = new AbortController();
const refused: string[] = [];
const onRefused = async (rollout: string): Promise<void> => void refused.push(rollout);

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-leases-'));
  const identity = await Identity.open(directory);
  const origin = new OriginRecords(await FleetRepository.create());
  first = await FakeGateway.open(origin);
  second = await FakeGateway.open(origin);
  nowMs = 0;
  refused.length = 0;
  const monotonicMs = (): number => nowMs;
  const known = await KnownGateways.open(directory, [first.url, second.url]);
  // The device knows the ids of these gateways, so it requests only leases.
  for (const { url, id } of [first, second]) await known.at(url).learn(id);
  const open = ({ url }: FakeGateway): HttpGateway =>
    new HttpGateway(url, { identity, receiver: known.at(url), now: () => Date.now(), maxConnections: 1 });
  const gateways = new Gateways([open(first), open(second)], () => Date.now(), monotonicMs);
  const clock = systemClock('auto');
  leases = new Leases({
    gateways,
    id: identity.id,
    clock,
    log: () => {},
    stop: signal,
    monotonicMs,
    onRefused,
  });
});
afterEach(async () => {
  await first.close();
  await second.close();
  await rm(directory, { recursive: true, force: true });
});

const counts = (): number[] => [first.count(ROUTE), second.count(ROUTE)];

describe('a lease', () => {
  const problem =
    (status: number, body: object): Fault =>
    response =>
      void response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));

  it.each([
    ['401', problem(401, { code: 'SITECAST_REQUEST_UNSIGNED' })],
    ['403', problem(403, { code: 'SITECAST_OTHER_SITE', detail: 'this device belongs to another site' })],
    ['429', problem(429, {})],
    ['that the rollout is unknown', problem(404, { code: 'SITECAST_ROLLOUT_UNKNOWN' })],
    ['"not granted" without saying until when', problem(200, { granted: false })],
    ['JSON of another kind', problem(200, { granted: 'no', retryAfterMs: 5000 })],
    ['nothing', 'drop'],
  ] as const)('comes from the next gateway where the first one answers %s', async (_name, fault) => {
    first.misbehave = faultAt(ROUTE, fault);
    second.lease = () => ({ granted: true });
    await leases.take('r1', signal);
    expect(counts()).toEqual([1, 1]);
  });

  it('is refused by the next gateway if that one counts the devices that are down', async () => {
    first.misbehave = faultAt(ROUTE, 'broken');
    second.lease = () => ({ granted: false, retryAfterMs: 5000 });
    await expect(leases.take('r1', signal)).rejects.toMatchObject({
      result: { reason: { code: 'SITECAST_LEASE_DENIED' } },
    });
  });

  it('is requested from the next gateway as well where one has refused it for four hours', async () => {
    first.lease = () => ({ granted: false, retryAfterMs: 5000 });
    second.lease = () => ({ granted: true });
    const denied = { result: { reason: { code: 'SITECAST_LEASE_DENIED' } } };
    await expect(leases.take('r1', signal)).rejects.toMatchObject(denied);
    nowMs += 4 * HOUR_MS - 1;
    await expect(leases.take('r1', signal)).rejects.toMatchObject(denied);
    expect(counts()).toEqual([2, 0]);
    nowMs += 1;
    await leases.take('r1', signal);
    expect(counts()).toEqual([3, 1]);
    // For another rollout, the four hours begin again.
    await expect(leases.take('r2', signal)).rejects.toMatchObject(denied);
  });

  it.each([
    ['"not now"', problem(200, { granted: false, retryAfterMs: 5000 }), true],
    ['no, without saying until when', problem(200, { granted: false }), true],
    ['that the device belongs elsewhere', problem(403, { code: 'SITECAST_OTHER_SITE' }), true],
    ['that the rollout is unknown', problem(404, { code: 'SITECAST_ROLLOUT_UNKNOWN' }), false],
    ['that the request is unsigned', problem(401, { code: 'SITECAST_REQUEST_UNSIGNED' }), false],
    ['nothing', 'drop', false],
  ] as const)('is refused or not where a gateway says %s: that is noted', async (_name, fault, isRefusal) => {
    for (const gateway of [first, second]) gateway.misbehave = faultAt(ROUTE, fault);
    await expect(leases.take('r1', signal)).rejects.toBeInstanceOf(CycleEnd);
    expect(refused.includes('r1')).toBe(isRefusal);
    // An error when a lease is given back is no refusal.
    refused.length = 0;
    await leases.giveBack('r1');
    expect(refused).toEqual([]);
  });

  it('is given back to the gateway that granted it', async () => {
    first.misbehave = faultAt(ROUTE, problem(401, {}));
    second.lease = () => ({ granted: true });
    await leases.take('r1', signal);
    await leases.giveBack('r1');
    expect(counts()).toEqual([1, 2]);
  });

  it('from before a reboot is given back to every gateway', async () => {
    first.misbehave = faultAt(ROUTE, 'drop');
    second.lease = () => ({ granted: true });
    await leases.giveBack('r1');
    expect(second.count(ROUTE)).toBe(1);
  });
});
