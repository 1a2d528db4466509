import { signRequest } from '@sitecast/shared/http-signature';
import { HttpClient, readBounded } from '@sitecast/shared/outbound';
import { connectionsToPeer, urlOfPeer } from '@sitecast/shared/swarm';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { removeTemporaryDirectories, TestDevice, until } from './testing/harness.ts';
import { follows, NeighbourHarness } from './testing/neighbours.ts';

const harness = new NeighbourHarness();
const image = Buffer.alloc(50_000, 'a release ');

afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

const bytesIn = (file: unknown): Uint8Array | undefined => (file instanceof Uint8Array ? file : undefined);

describe('a gateway without a way to the origin', () => {
  it('starts with the whole set of a neighbour, and has each new one from it within a moment', async () => {
    const origin = await harness.published(image);
    const { address } = await harness.connected(origin);
    const gateway = await harness.cutOff(origin, [address]);
    await follows(gateway, origin);
    await origin.publishRelease('camera', 2, Buffer.alloc(90_000, 'another one '));
    await origin.startRollout('camera', 2);
    await follows(gateway, origin);
    expect(await gateway.isReady()).toBe(true);
    const from = gateway.log.lines.filter(({ message }) => message === 'a new set is served');
    expect(from.at(-1)?.fields).toMatchObject({ isComplete: true, from: expect.stringMatching(/^libp2p:/) });
  });

  it('hears of a new root from a neighbour, and follows it', async () => {
    const origin = await harness.published(image);
    const { address } = await harness.connected(origin);
    const gateway = await harness.cutOff(origin, [address]);
    await origin.repository.publish('root');
    await origin.repository.publishAll();
    await follows(gateway, origin);
    expect((await gateway.get('metadata/2.root.json')).status).toBe(200);
  });

  it('takes the newest of its neighbours: one that was frozen, one that is silent and one that lies hold up nothing', async () => {
    const origin = await harness.published(image);
    const old = new Map(origin.repository.files);
    await origin.publishRelease('camera', 2, Buffer.alloc(90_000, 'another one '));
    await origin.startRollout('camera', 2);
    const frozen = await harness.member(path => bytesIn(old.get(path.slice(1))));
    const silent = await harness.member(() => 'nothing');
    const lying = await harness.member(path =>
      path.endsWith('timestamp.json') ? Buffer.from('{"signed":{"version":999999}}') : undefined,
    );
    const { address } = await harness.connected(origin);
    const addresses = [frozen.address, silent.address, lying.address, address];
    const gateway = await harness.cutOff(origin, addresses, { poll: 500 });
    await follows(gateway, origin);
    const asksForFiles = (): number => lying.asked.filter(path => !path.startsWith('/site/')).length;
    // Three of the four are drawn each time.
    while (asksForFiles() === 0) {
      await origin.startRollout('camera', 2);
      await follows(gateway, origin);
    }
    // The liar rests from then on.
    const asked = asksForFiles();
    await origin.startRollout('camera', 2);
    await follows(gateway, origin);
    expect(asksForFiles()).toBe(asked);
  }, 60_000);

  it('has from a neighbour what only its own devices need of rollouts under way, and nothing else that the neighbour lacks', async () => {
    const origin = await harness.published(image);
    await origin.publishRelease('camera', 2, Buffer.alloc(90_000, 'another one '));
    await origin.publishRelease('camera', 3, Buffer.alloc(90_000, 'not rolled out '));
    const delta = { product: 'camera', from: 1, to: 2 };
    await origin.repository.publishDelta(
      delta,
      Buffer.from('what a device makes of it'),
      Buffer.alloc(3000, 'patches '),
    );
    await origin.startRollout('camera', 2);
    const { address } = await harness.connected(origin);
    const gateway = await harness.cutOff(origin, [address]);
    await follows(gateway, origin);
    const pathOf = (ending: string): string =>
      [...origin.repository.files.keys()].find(path => path.endsWith(ending)) ?? '';
    expect((await gateway.get(pathOf('camera-2-from-1.recipe'))).body.toString()).toContain('what a device');
    expect((await gateway.get(pathOf('camera-3.json'))).status).toBe(503);
    expect(origin.count(`GET /${pathOf('camera-3.json')}`)).toBe(0);
  });

  it('gives the files of the repository to its neighbours, and nothing else', async () => {
    const origin = await harness.published(image);
    const { address, gateway } = await harness.connected(origin);
    const { node } = await harness.member(() => undefined);
    const peer = await node.dial(address);
    const client = new HttpClient(urlOfPeer(peer), {
      connections: connectionsToPeer(node, peer),
      code: 'SITECAST_UPSTREAM_UNREACHABLE',
    });
    const statusOf = (path: string, request = {}) =>
      client.exchange(path, request, async ({ status }) => status);
    expect(await statusOf('/metadata/timestamp.json')).toBe(200);
    const refused: [string, object][] = [
      ['/metadata/timestamp.json', { headers: { prefer: 'wait=50' } }],
      ['/metadata/timestamp.json', { headers: { signature: 'x=:AA==:' } }],
      ['/metadata/../metrics', {}],
      ['/metrics', {}],
      ['/readyz', {}],
      ['/chunks/0000/00', {}],
    ];
    for (const [path, request] of refused) expect([path, await statusOf(path, request)]).toEqual([path, 404]);
    expect((await gateway.get('metrics')).status).toBe(200);
  });

  it('joins, lets devices in and passes reports on through a neighbour, which keeps none of them', async () => {
    const origin = await harness.published(image);
    const { address, gateway: neighbour } = await harness.connected(origin);
    const gateway = await harness.cutOff(origin, [address]);
    await follows(gateway, origin);
    await gateway.untilEnrolled();
    const device = new TestDevice();
    const enrolled = await device.post(`${gateway.url}/site/v1/enrolments`, {
      envelope: await device.enrolment(),
    });
    expect(enrolled).toMatchObject({ status: 200, json: { assignment: expect.anything() } });
    await device.post(`${gateway.url}/site/v1/reports`, { reports: [await device.report()] });
    await until(() => origin.records.reports.some(({ id }) => id === device.id), 'the report at the origin');
    expect(await neighbour.metric('sitecast_outbox_reports')).toBe(0);
    await until(async () => (await gateway.metric('sitecast_outbox_reports')) === 0, 'it is acknowledged');
  });

  it('passes on what a neighbour has signed itself, a bounded amount of it, and to the origin alone', async () => {
    const origin = await harness.published(image);
    const { address } = await harness.connected(origin);
    const { node } = await harness.member(() => undefined);
    const peer = await node.dial(address);
    const url = urlOfPeer(peer);
    const client = new HttpClient(url, {
      connections: connectionsToPeer(node, peer),
      code: 'SITECAST_UPSTREAM_UNREACHABLE',
    });
    const ask = (path: string, headers: Record<string, string>, body?: Buffer) =>
      client.exchange(path, { method: body ? 'POST' : 'GET', headers, body }, async answer => {
        const json = JSON.parse(String(await readBounded(answer.body, 65_536)));
        return [answer.status, json.code];
      });
    const device = new TestDevice();
    const body = Buffer.from(JSON.stringify({ reports: [await device.report()] }));
    const path = '/site/v1/reports';
    const headers = await signRequest({ method: 'POST', url: url + path, body }, device.identity, Date.now());
    const type = { 'content-type': 'application/json' };
    const before = origin.count('/site/v1/reports');
    expect(await ask(path, { ...type, ...headers }, body)).toEqual([503, 'SITECAST_RELAY_REFUSED']);
    expect(await ask(path, type, body)).toEqual([503, 'SITECAST_RELAY_REFUSED']);
    expect(await ask('/site/v1/leases', { ...type, ...headers }, body)).toEqual([
      503,
      'SITECAST_NOT_RELAYED',
    ]);
    expect(await ask('/site/v1/assignments/..%2f..', {})).toEqual([503, 'SITECAST_NOT_RELAYED']);
    const long = Buffer.alloc(1024 * 1024 + 1, 32);
    expect(await ask(path, { ...type, 'signature-input': `x=();keyid="${node.id}"` }, long)).toEqual([
      413,
      'SITECAST_BODY_TOO_LARGE',
    ]);
    expect(origin.count('/site/v1/reports')).toBe(before);
    const flood = Array.from({ length: 300 }, () => ask(`/site/v1/assignments/${device.id}`, {}));
    const answers = await Promise.all(flood);
    expect(answers.filter(([, code]) => code === 'SITECAST_RELAY_BUSY').length).toBeGreaterThan(50);
    expect(answers.filter(([status]) => status === 404).length).toBeGreaterThan(50);
  });
});

it('says which settings are without effect where it joins no network', async () => {
  const { origin } = await harness.originWith(image);
  const gateway = await harness.gateway(origin, { fleetUpload: 2 ** 30, gossipAnnounce: ['/dns4/a/tcp/1'] });
  expect(gateway.log.lines.map(({ message }) => message)).toContain(
    "without effect: --gossip-announce, --fleet-upload: this gateway isn't in the fleet's network",
  );
});
