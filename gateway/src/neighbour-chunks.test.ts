import { chunkPath } from '@sitecast/shared/content';
import { HttpClient, readBounded } from '@sitecast/shared/outbound';
import { announcementOf, connectionsToPeer, urlOfPeer } from '@sitecast/shared/swarm';
import type { FakeOrigin } from '@sitecast/shared/testing/origin';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { ASSIGNMENT_HEADER } from '@sitecast/shared/fleet';
import { removeTemporaryDirectories, TestDevice, type TestGateway, until } from './testing/harness.ts';
import { follows, NeighbourHarness } from './testing/neighbours.ts';

const MIB = 2 ** 20;
const harness = new NeighbourHarness();
const image = Buffer.from(Array.from({ length: 60_000 }, (_, at) => (at * at) % 251));

afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

const pathOf = (id: Uint8Array): string => `chunks/${chunkPath(id)}`;
const given = (gateway: TestGateway): Promise<number> => gateway.metric('sitecast_wan_sent_bytes_total');
const problemOf = ({ status, body }: { status: number; body: Buffer }) => [
  status,
  JSON.parse(body.toString()).code,
];

/** Release 2, which differs from release 1, published and rolled out now. */
async function newRelease(origin: FakeOrigin): Promise<readonly Uint8Array[]> {
  const { ids } = await origin.publishRelease('camera', 2, Buffer.from(image.map(byte => byte ^ 1)));
  await origin.startRollout('camera', 2);
  return ids;
}

/** An origin, a gateway that gives chunks, and one at another site that has joined through it. */
async function twoSites(more: { fleetUpload?: number } = { fleetUpload: 64 * MIB }) {
  const origin = await harness.published(image);
  const { gateway: giver, address } = await harness.connected(origin, more);
  const gateway = await harness.cutOff(origin, [address], { site: 'south' });
  await follows(gateway, origin);
  await gateway.untilEnrolled();
  return { origin, giver, address, gateway };
}

describe('a gateway without a way to the origin', () => {
  it('gets chunks through a neighbour, which fetches what it lacks, once', async () => {
    const { origin, giver, gateway } = await twoSites();
    const ids = await newRelease(origin);
    await follows(gateway, origin);
    const before = await given(giver);
    let lengthBytes = 0;
    for (let round = 0; round < 2; round += 1) {
      for (const id of ids) {
        const { status, body } = await gateway.get(pathOf(id));
        expect(status).toBe(200);
        if (round === 0) lengthBytes += body.length;
      }
    }
    expect(ids.map(id => origin.count(`GET /${pathOf(id)}`))).toEqual(ids.map(() => 1));
    expect((await given(giver)) - before).toBeGreaterThanOrEqual(lengthBytes);
  });

  it('gets none where no neighbour was told to give any', async () => {
    const { origin, gateway } = await twoSites({});
    const [id = new Uint8Array(32)] = await newRelease(origin);
    await follows(gateway, origin);
    const answer = await gateway.get(pathOf(id));
    expect(problemOf(answer)).toEqual([503, 'SITECAST_CHUNK_UNAVAILABLE']);
    expect(origin.count(`GET /${pathOf(id)}`)).toBe(0);
  });

  it.each([
    ['where no neighbour was told to give any', {}, 'none are given to other sites', 'off'],
    ['where what a neighbour gives in a day is used up', { fleetUpload: MIB / 2 }, 'is used up', 'usedUp'],
  ])('tells devices, and its log, why it gets none %s', async (_, more, why, word) => {
    const { origin, giver, gateway } = await twoSites(more);
    const [id = new Uint8Array(32)] = await newRelease(origin);
    await follows(gateway, origin);
    const { detail, hint } = JSON.parse((await gateway.get(pathOf(id))).body.toString());
    expect(detail).toContain(why);
    expect(detail).toContain(giver.id.slice(-8));
    expect(hint).toContain('--fleet-upload');
    const told = gateway.log.lines.filter(({ message }) => message === 'a chunk could not be served');
    expect(told.at(-1)?.fields).toMatchObject({ detail, hint });
    // The side that refuses, too: its operator can change it.
    const refused = giver.log.lines.filter(({ message }) => message.includes('is given no chunks'));
    expect(refused.at(-1)).toMatchObject({
      level: 'warn',
      fields: { code: 'SITECAST_UPLOAD_REFUSED', why: word, hint: expect.stringContaining('--fleet-upload') },
    });
  });

  it('says that no neighbour is connected', async () => {
    const { origin, giver, gateway } = await twoSites();
    const [id = new Uint8Array(32)] = await newRelease(origin);
    await follows(gateway, origin);
    await giver.close();
    await until(async () => (await gateway.metric('sitecast_gossip_connections')) === 0, 'it to be alone');
    const { detail, hint } = JSON.parse((await gateway.get(pathOf(id))).body.toString());
    expect(detail).toContain('no gateway of another site is connected');
    expect(hint).toContain('--gossip-peer');
  });

  it('gets what a late device needs: of a release whose rollout is completed, and none of one that no rollout orders', async () => {
    const { origin, gateway } = await twoSites();
    const { ids } = await origin.publishRelease('camera', 2, Buffer.from(image.map(byte => byte ^ 1)));
    const rollout = await origin.startRollout('camera', 2, { state: 'completed' });
    await follows(gateway, origin);
    for (const id of ids) expect((await gateway.get(pathOf(id))).status).toBe(200);
    const { ids: other } = await origin.publishRelease('camera', 3, Buffer.from(image.map(byte => byte ^ 2)));
    await origin.startRollout('camera', 3, { ...rollout, id: '9', state: 'aborted' });
    await follows(gateway, origin);
    const [never = new Uint8Array(32)] = other;
    expect((await gateway.get(pathOf(never))).status).not.toBe(200);
  });

  it('passes a neighbour over that gives wrong bytes, for the next', async () => {
    const origin = await harness.published(image);
    const { address } = await harness.connected(origin, { fleetUpload: 64 * MIB });
    const lying = await harness.member(path =>
      path.startsWith('/chunks/') ? Buffer.from('not a chunk') : undefined,
    );
    const gateway = await harness.cutOff(origin, [address, lying.address]);
    await follows(gateway, origin);
    await gateway.untilEnrolled();
    const ids = await newRelease(origin);
    await follows(gateway, origin);
    for (const id of ids) expect((await gateway.get(pathOf(id))).status).toBe(200);
    // It rests from its first lie on.
    expect(lying.asked.filter(path => path.startsWith('/chunks/')).length).toBeLessThanOrEqual(1);
  });

  it('requests one chunk of a neighbour that gives wrong bytes, however often the others give none', async () => {
    const origin = await harness.published(image);
    const { address } = await harness.connected(origin);
    const lying = await harness.member(path =>
      path.startsWith('/chunks/') ? Buffer.from('not a chunk') : undefined,
    );
    const gateway = await harness.cutOff(origin, [address, lying.address]);
    await follows(gateway, origin);
    await gateway.untilEnrolled();
    const ids = await newRelease(origin);
    await follows(gateway, origin);
    for (let round = 0; round < 2; round += 1)
      for (const id of ids) expect((await gateway.get(pathOf(id))).status).toBe(503);
    expect(lying.asked.filter(path => path.startsWith('/chunks/'))).toHaveLength(1);
  });

  it('is given the first root, which its join token names, by a neighbour', async () => {
    const origin = await harness.published(image);
    const { address } = await harness.connected(origin);
    const lying = await harness.member(path => (path.includes('root.json') ? Buffer.from('{}') : undefined));
    const token = origin.joinToken();
    const gateway = await harness.cutOff(origin, [lying.address, address], { token });
    await follows(gateway, origin);
    await gateway.untilEnrolled();
    expect(lying.asked.some(path => path.includes('root.json'))).toBe(true);
  });
});

it('asks no neighbour while the origin answers, not even for a chunk that the origin lacks', async () => {
  const origin = await harness.published(image);
  const { gateway: giver, address } = await harness.connected(origin, { fleetUpload: 64 * MIB });
  const ids = await newRelease(origin);
  await follows(giver, origin);
  for (const id of ids) expect((await giver.get(pathOf(id))).status).toBe(200);
  const { gateway } = await harness.connected(origin, { gossipPeer: [address], site: 'south' });
  await until(async () => (await gateway.metric('sitecast_gossip_connections')) > 0, 'it is connected');
  await follows(gateway, origin);
  const [lost = new Uint8Array(32), ...others] = ids;
  origin.repository.files.delete(pathOf(lost));
  const before = await given(giver);
  for (const id of others) expect((await gateway.get(pathOf(id))).status).toBe(200);
  expect(problemOf(await gateway.get(pathOf(lost)))).toEqual([503, 'SITECAST_CHUNK_UNAVAILABLE']);
  // What it says for itself; the chunks would be 60 kB.
  expect((await given(giver)) - before).toBeLessThan(5000);
});

it('goes on where its only neighbour lacked a file for a moment', async () => {
  const origin = await harness.published(image);
  let isBehind = false;
  const only = await harness.member(path => {
    const file = origin.repository.files.get(path.slice(1));
    return file instanceof Uint8Array && !(isBehind && path.startsWith('/targets/')) ? file : undefined;
  });
  const gateway = await harness.cutOff(origin, [only.address]);
  await follows(gateway, origin);
  const before = only.asked.length;
  isBehind = true;
  await newRelease(origin);
  const { repository } = origin;
  const files = ['snapshot', 'rollouts'].map(
    role => [repository.pathOf(role).slice('metadata/'.length), repository.bytesOf(role)] as const,
  );
  await only.node.gossip.announce(
    announcementOf(repository.root.version, repository.bytesOf('timestamp'), new Map(files)),
  );
  const lacked = () => only.asked.slice(before).filter(path => path.startsWith('/targets/'));
  await until(() => lacked().length > 0, 'it lacks a file');
  isBehind = false;
  await follows(gateway, origin);
  // It has asked again.
  expect(lacked().length).toBeGreaterThan(1);
});

describe('a gateway gives chunks', () => {
  /** A member of the fleet's network that asks a gateway for chunks itself. */
  async function asker(
    origin: FakeOrigin,
    address: string,
    kind: 'gateway' | 'device' = 'gateway',
    its = new TestDevice(),
  ) {
    const { node } = await harness.member(() => undefined, its.identity);
    const envelope = await its.enrolment({ kind, site: 'south' });
    const { json } = await its.post(`${origin.url}/site/v1/enrolments`, { envelope });
    const peer = await node.dial(address);
    const client = new HttpClient(urlOfPeer(peer), {
      connections: connectionsToPeer(node, peer),
      code: 'SITECAST_UPSTREAM_UNREACHABLE',
    });
    const shown = Buffer.from(JSON.stringify(json.assignment)).toString('base64');
    const ask = (
      id: Uint8Array,
      assignment: string | undefined = shown,
      method: 'GET' | 'HEAD' = 'GET',
      more: Record<string, string> = {},
    ) =>
      client.exchange(
        `/${pathOf(id)}`,
        { method, headers: assignment === '' ? more : { [ASSIGNMENT_HEADER]: assignment, ...more } },
        async ({ status, body }) => [status, (await readBounded(body, MIB))?.length] as const,
      );
    return { its, ask, shown };
  }

  async function giving(fleetUpload: number) {
    const origin = await harness.published(image);
    const { gateway, address } = await harness.connected(origin, { fleetUpload });
    const ids = await newRelease(origin);
    await follows(gateway, origin);
    const [id = new Uint8Array(32)] = ids;
    return { origin, gateway, address, ids, id };
  }
  const statusOf = async (answer: Promise<readonly [number, number | undefined]>) => (await answer)[0];

  it('to members that show an assignment of their own as gateways which counts', async () => {
    const { origin, gateway, address, id } = await giving(64 * MIB);
    const member = await asker(origin, address);
    const device = await asker(origin, address, 'device');
    expect(await statusOf(member.ask(id, ''))).toBe(503);
    expect(await statusOf(member.ask(id, device.shown))).toBe(503);
    expect(await statusOf(member.ask(id, 'x'.repeat(9000)))).toBe(503);
    expect(await statusOf(device.ask(id))).toBe(503);
    expect(await statusOf(device.ask(id, member.shown))).toBe(503);
    expect(origin.count(`GET /${pathOf(id)}`)).toBe(0);
    expect(await statusOf(member.ask(id))).toBe(200);
    for (const [expiresMs, status] of [
      [Date.now() - 60_000, 503],
      [Date.now() + 3_600_000, 200],
    ] as const) {
      const about = { kind: 'gateway' as const, expiresAt: new Date(expiresMs).toISOString() };
      const envelope = await origin.records.assign({ id: member.its.id, ...about });
      const shown = Buffer.from(JSON.stringify(envelope)).toString('base64');
      expect(await statusOf(member.ask(id, shown))).toBe(status);
    }
    await origin.repository.revoke(member.its.id);
    await follows(gateway, origin);
    expect(await statusOf(member.ask(id))).toBe(503);
  });

  it('that a listed rollout orders', async () => {
    const { origin, gateway, address } = await giving(64 * MIB);
    const { ids } = await origin.publishRelease('camera', 3, Buffer.from(image.map(byte => byte ^ 2)));
    await origin.repository.publishAll();
    await follows(gateway, origin);
    const member = await asker(origin, address);
    const [id = new Uint8Array(32)] = ids;
    expect(await statusOf(member.ask(id))).toBe(503);
    await origin.startRollout('camera', 3);
    await follows(gateway, origin);
    await until(async () => (await statusOf(member.ask(id))) === 200, 'it to be given');
  });

  it('whole, however they are asked for: nothing is fetched that is not counted', async () => {
    const { origin, address, id } = await giving(64 * MIB);
    const member = await asker(origin, address);
    const before = origin.count(`GET /${pathOf(id)}`);
    expect(await statusOf(member.ask(id, undefined, 'HEAD'))).toBe(503);
    expect(await statusOf(member.ask(id, undefined, 'GET', { range: 'bytes=0-0' }))).toBe(503);
    expect(await statusOf(member.ask(id, undefined, 'GET', { 'if-none-match': '*' }))).toBe(503);
    expect(origin.count(`GET /${pathOf(id)}`)).toBe(before);
    expect(await statusOf(member.ask(id))).toBe(200);
  });

  it('up to a number of bytes a day for each, over restarts', async () => {
    const { origin, gateway, address, ids } = await giving(2 * MIB);
    const one = await asker(origin, address);
    let bytes = 0;
    let refused = 0;
    for (let at = 0; refused === 0; at += 1) {
      const [status, length = 0] = await one.ask(ids[at % ids.length] ?? new Uint8Array(32));
      if (status === 200) bytes += length;
      else refused += 1;
    }
    expect(bytes).toBeGreaterThan(MIB / 2);
    expect(bytes).toBeLessThanOrEqual(2 * MIB);
    const other = await asker(origin, address);
    const [id = new Uint8Array(32)] = ids;
    expect(await statusOf(other.ask(id))).toBe(200);
    await gateway.close();
    const again = await harness.connected(origin, { ...gateway.settings });
    await follows(again.gateway, origin);
    const back = await asker(origin, again.address, 'gateway', one.its);
    expect(await statusOf(back.ask(id))).toBe(503);
    expect(await statusOf((await asker(origin, again.address)).ask(id))).toBe(200);
  });
});
