import { HttpClient, readBounded } from '@sitecast/shared/outbound';
import { connectionsToPeer, urlOfPeer } from '@sitecast/shared/swarm';
import { afterAll, afterEach, expect, it } from 'vitest';
import { removeTemporaryDirectories } from './testing/harness.ts';
import { follows, NeighbourHarness } from './testing/neighbours.ts';
import { noise } from './testing/site-with-deltas.ts';

const MIB = 2 ** 20;
const harness = new NeighbourHarness();

afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

/** Someone with the fleet's key and nothing else, who asks the gateway at this address. */
async function stranger(address: string) {
  const { node } = await harness.member(() => undefined);
  const peer = await node.dial(address);
  const client = new HttpClient(urlOfPeer(peer), {
    connections: connectionsToPeer(node, peer),
    code: 'SITECAST_UPSTREAM_UNREACHABLE',
  });
  const get = (path: string, headers: Record<string, string> = {}) =>
    client.exchange(`/${path}`, { headers, timeoutMs: 60_000 }, async answer => ({
      status: answer.status,
      body: await readBounded(answer.body, 64 * MIB),
    }));
  /** Reports, as far as can be told without the key of who signed them. */
  const post = (lengthBytes: number) => {
    const headers = { 'content-type': 'application/json', 'signature-input': `x=();keyid="${node.id}"` };
    const request = {
      method: 'POST' as const,
      headers,
      body: Buffer.alloc(lengthBytes, 32),
      timeoutMs: 60_000,
    };
    return client.exchange('/site/v1/reports', request, async answer => {
      await readBounded(answer.body, MIB);
      return { status: answer.status, retryAfter: answer.headers['retry-after'] };
    });
  };
  return { get, post };
}

const pathOf = (files: ReadonlyMap<string, unknown>, ending: string): string =>
  [...files.keys()].find(path => path.endsWith(ending)) ?? 'missing';

it('fetches for neighbours nothing but what rollouts under way need, whatever they say of themselves', async () => {
  const origin = await harness.published(noise(4, 1));
  await origin.publishRelease('camera', 9, noise(4, 9));
  const { gateway, address } = await harness.connected(origin);
  await follows(gateway, origin);
  const path = pathOf(origin.repository.files, 'camera-9.json');
  const { get } = await stranger(address);
  expect((await get(path)).status).toBe(404);
  expect((await get(path, { 'sitecast-forwarded': '1' })).status).toBe(404);
  expect(origin.count(`GET /${path}`)).toBe(0);
  // Its own devices have it.
  expect((await gateway.get(path)).status).toBe(200);
  expect((await get(path)).status).toBe(200);
});

it('gives neighbours files at a quarter of its rate', async () => {
  const origin = await harness.published(noise(4, 1));
  // 5000 chunks are 200 kB of index.
  const { index } = await origin.publishRelease('camera', 2, noise(5000, 2, 32), 32);
  await origin.startRollout('camera', 2);
  const { gateway, address } = await harness.connected(origin, { wanRate: 400_000 });
  await follows(gateway, origin);
  const path = pathOf(origin.repository.files, 'camera-2.caibx');
  const { get } = await stranger(address);
  const beginMs = performance.now();
  const { status, body } = await get(path);
  expect(status).toBe(200);
  expect(body).toEqual(Buffer.from(index.encode()));
  // It is a lower bound: a busy machine only makes it slower.
  expect(performance.now() - beginMs).toBeGreaterThan((body?.length ?? 0) / 100 - 100);
});

it('passes on what all neighbours together ask in turns where its link has a rate, and says when to ask again', async () => {
  const origin = await harness.published(noise(4, 1));
  const { gateway, address } = await harness.connected(origin, { wanRate: 32_000 });
  await follows(gateway, origin);
  const before = origin.count('/site/v1/reports');
  const sites = await Promise.all(Array.from({ length: 3 }, () => stranger(address)));
  const answers = await Promise.all(sites.map(({ post }) => post(MIB / 2)));
  expect(answers).toEqual(answers.map(() => ({ status: 503, retryAfter: expect.any(String) })));
  expect(origin.count('/site/v1/reports')).toBe(before);
  // A short one is passed on.
  const [first] = sites;
  expect((await first?.post(1000))?.status).toBeLessThan(500);
  expect(origin.count('/site/v1/reports')).toBe(before + 1);
}, 40_000);
