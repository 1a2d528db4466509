import { randomBytes } from 'node:crypto';
import { createServer, type Server } from 'node:net';
import { formatJoinToken } from '@sitecast/shared/fleet';
import { KeyPair } from '@sitecast/shared/signing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TestDevice } from '../testing/device.ts';
import { TestFleet } from '../testing/fleet.ts';
import { type Mischief, FakeOrigin, FakeGateway } from '../testing/gateway.ts';

// Something else than a gateway answers where one was: that's a gateway which can't be reached, at a device's first contact and later.

let fleet: TestFleet;
let origin: FakeOrigin;
let site: FakeGateway;
let other: FakeGateway;
let device: TestDevice;

beforeEach(async () => {
  fleet = await TestFleet.create();
  origin = new FakeOrigin(fleet);
  site = await FakeGateway.open(origin);
  other = await FakeGateway.open(origin);
  device = await TestDevice.create([site.url, other.url], fleet.rootBytes);
  fleet.addRelease({ counter: 1, image: randomBytes(30_000) });
  fleet.rollOut(1);
  await fleet.publish();
});
afterEach(async () => {
  await device.remove();
  await site.close();
  await other.close();
});

const withToken = (rootSha256 = fleet.rootSha256) => ({
  settings: {
    rootFile: undefined,
    token: formatJoinToken('http://origin.example', rootSha256, KeyPair.generate()),
  },
});
const unreachable = { kind: 'unreachable' };

describe.each<[string, () => Mischief]>([
  ['a captive portal', () => 'portal'],
  ['a server that speaks JSON', () => 'otherJson'],
  ['a redirect', () => 'redirect'],
  ['a server that has nothing', () => 'missing'],
  ['a page that is longer than a root', () => Buffer.alloc(600 * 1024, '<p>')],
  ['the root, damaged', () => 'tamper'],
])('%s in place of a gateway', (_what, mischief) => {
  it('keeps a device from beginning, which tries again; and it does not stand in the way of another one', async () => {
    site.mischief = mischief;
    other.mischief = mischief;
    await expect(device.open(withToken())).rejects.toMatchObject(unreachable);
    other.mischief = () => undefined;
    await device.open(withToken());
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    expect(device.parts.outbox.pendingCount).toBe(0);
  });
});

it.each(['portal', 'otherJson', 'redirect'] as const)(
  'says of a site that answers to all with something else (%s) that no gateway is there, and nothing of an enrolment',
  async mischief => {
    await device.open();
    site.mischief = () => mischief;
    other.mischief = () => mischief;
    expect(await device.cycle()).toMatchObject({ state: 'waiting' });
    expect(device.parts.status.current.enrolment).toBe('unknown');
    // As far as the metadata, it's a gateway's.
    const bySite = (path: string) => (path.startsWith('/site/') ? mischief : undefined);
    site.mischief = bySite;
    other.mischief = bySite;
    expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'gateway' });
    expect(device.parts.status.current.enrolment).toBe('unknown');
    other.mischief = () => undefined;
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
  },
);

it('hands out no leave to go down, and takes no reports, where a portal answers', async () => {
  await device.open();
  const portalAt = (start: string) => (path: string) => (path.startsWith(start) ? 'portal' : undefined);
  site.mischief = portalAt('/site/v1/leases');
  other.mischief = site.mischief;
  expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'lease' });
  site.mischief = portalAt('/site/v1/reports');
  other.mischief = () => undefined;
  expect(await device.cycle()).toMatchObject({ state: 'completed' });
  expect(device.parts.outbox.pendingCount).toBe(0);
});

it('takes no portal for news', async () => {
  await device.open();
  site.mischief = () => 'portal';
  const [first] = device.parts.gateways.all;
  await expect(first?.waitForChange(1000)).rejects.toMatchObject(unreachable);
});

it('takes something that is no HTTP, as TLS where none is expected, for an unreachable gateway', async () => {
  const server: Server = createServer(socket => socket.end('\x15\x03\x03\x00\x02\x02\x28'));
  await new Promise<void>(resolve => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  for (const scheme of ['http', 'https']) {
    const gateways: [string] = [`${scheme}://127.0.0.1:${port}`];
    const { settings } = withToken();
    await expect(device.open({ settings: { ...settings, gateways } })).rejects.toMatchObject(unreachable);
  }
  server.close();
});

it("takes another fleet's root for what it is: token and gateway don't belong together", async () => {
  const stranger = await TestFleet.create();
  await expect(device.open(withToken(stranger.rootSha256))).rejects.toMatchObject({
    code: 'SITECAST_ROOT_MISMATCH',
  });
});
