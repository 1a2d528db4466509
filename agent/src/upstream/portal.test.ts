import { randomBytes } from 'node:crypto';
import { createServer, type Server } from 'node:net';
import { formatJoinToken } from '@sitecast/shared/fleet';
import { KeyPair } from '@sitecast/shared/signing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AgentHarness } from '../testing/harness.ts';
import { FleetRepository, type Fault } from '@sitecast/shared/testing/origin';

// Something other than a gateway answers at its address. The device treats it as an unreachable gateway, at its first contact and later.

let harness: AgentHarness;

beforeEach(async () => {
  harness = await AgentHarness.open({ images: [randomBytes(30_000)], hasOther: true });
});
afterEach(async () => {
  await harness.close();
});

const withToken = (rootSha256 = harness.fleet.rootSha256) => ({
  settings: {
    rootFile: undefined,
    token: formatJoinToken('http://origin.example', rootSha256, KeyPair.generate()),
  },
});
const unreachable = { kind: 'unreachable' };

describe.each<[string, () => Fault]>([
  ['a captive portal', () => 'portal'],
  ['a server that speaks JSON', () => 'otherJson'],
  ['a redirect', () => 'redirect'],
  ['a server that has nothing', () => 'missing'],
  ['a page that is longer than a root', () => Buffer.alloc(600 * 1024, '<p>')],
  ['the root, damaged', () => 'tamper'],
])('%s in place of a gateway', (_what, misbehave) => {
  it('keeps a device from starting, which tries again, and does not disturb another gateway', async () => {
    harness.gateway.misbehave = misbehave;
    harness.other.misbehave = misbehave;
    await expect(harness.device.open(withToken())).rejects.toMatchObject(unreachable);
    harness.other.misbehave = () => undefined;
    await harness.device.open(withToken());
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(harness.device.parts.outbox.pendingCount).toBe(0);
  });
});

it.each(['portal', 'otherJson', 'redirect'] as const)(
  'reports that no gateway is there where something else answers everything (%s), and does not speak of enrolment',
  async misbehave => {
    await harness.device.open();
    harness.gateway.misbehave = () => misbehave;
    harness.other.misbehave = () => misbehave;
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting' });
    expect(harness.device.parts.status.current.enrolment).toBe('unknown');
    // The metadata comes from a real gateway.
    const bySite = (path: string) => (path.startsWith('/site/') ? misbehave : undefined);
    harness.gateway.misbehave = bySite;
    harness.other.misbehave = bySite;
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'gateway' });
    expect(harness.device.parts.status.current.enrolment).toBe('unknown');
    harness.other.misbehave = () => undefined;
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  },
);

it('grants no lease and accepts no reports', async () => {
  await harness.device.open();
  const portalAt = (start: string) => (path: string) => (path.startsWith(start) ? 'portal' : undefined);
  harness.gateway.misbehave = portalAt('/site/v1/leases');
  harness.other.misbehave = harness.gateway.misbehave;
  expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'lease' });
  harness.gateway.misbehave = portalAt('/site/v1/reports');
  harness.other.misbehave = () => undefined;
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  expect(harness.device.parts.outbox.pendingCount).toBe(0);
});

it('brings no change', async () => {
  await harness.device.open();
  harness.gateway.misbehave = () => 'portal';
  const [first] = harness.device.parts.gateways.all;
  await expect(first?.waitForChange(1000)).rejects.toMatchObject(unreachable);
});

it('counts as an unreachable gateway where it does not speak HTTP, such as TLS where none is expected', async () => {
  const server: Server = createServer(socket => socket.end('\x15\x03\x03\x00\x02\x02\x28'));
  await new Promise<void>(resolve => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  for (const scheme of ['http', 'https']) {
    const gateways: [string] = [`${scheme}://127.0.0.1:${port}`];
    const { settings } = withToken();
    await expect(harness.device.open({ settings: { ...settings, gateways } })).rejects.toMatchObject(
      unreachable,
    );
  }
  server.close();
});

it("with another fleet's root is reported as a token and a gateway that don't belong together", async () => {
  const stranger = await FleetRepository.create();
  await expect(harness.device.open(withToken(stranger.rootSha256))).rejects.toMatchObject({
    code: 'SITECAST_ROOT_MISMATCH',
  });
});
