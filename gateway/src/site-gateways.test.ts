import { createHash } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { chunkPath } from '@sitecast/shared/content';
import { afterAll, afterEach, expect, it } from 'vitest';
import { MAX_IDENTITY_ANSWER_BYTES } from './adapters/http-peer-gateway.ts';
import { ownerOf } from './peer-gateways/shared-fetching.ts';
import type { FakeOrigin, PublishedImage } from '@sitecast/shared/testing/origin';
import { removeTemporaryDirectories, type TestGateway, GatewayHarness, until } from './testing/harness.ts';

const harness = new GatewayHarness();
const servers: Server[] = [];
afterEach(async () => {
  await harness.closeAll();
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});
afterAll(removeTemporaryDirectories);

const CHUNKS = 40;
const pathOf = (id: Uint8Array): string => `chunks/${chunkPath(id)}`;

/** Incompressible bytes. */
function noise(lengthBytes: number): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at * 32 < lengthBytes; at += 1)
    parts.push(createHash('sha256').update(`noise ${at}`).digest());
  return Buffer.concat(parts).subarray(0, lengthBytes);
}

async function published(): Promise<{ origin: FakeOrigin } & PublishedImage> {
  return await harness.originWith(noise(CHUNKS * 16_384));
}

/** Two gateways of one site, each configured with the other's address. */
async function pair(origin: FakeOrigin): Promise<[TestGateway, TestGateway]> {
  const [port] = await freePorts(1);
  const one = await harness.gateway(origin, {
    siteGateway: [`http://127.0.0.1:${port}`],
    prefetch: false,
  });
  const two = await harness.gateway(origin, {
    listen: { host: '127.0.0.1', port: port ?? 0 },
    siteGateway: [one.url],
    prefetch: false,
  });
  await knowEachOther(one, two);
  return [one, two];
}

async function knowEachOther(...gateways: TestGateway[]): Promise<void> {
  for (const gateway of gateways)
    await until(
      async () => (await gateway.metric('sitecast_site_gateways')) === gateways.length,
      'the others to be known',
    );
}

async function freePorts(count: number): Promise<number[]> {
  const ports: number[] = [];
  for (let at = 0; at < count; at += 1) {
    const server = await listening(createServer());
    ports.push(portOf(server));
    await new Promise(resolve => server.close(resolve));
  }
  return ports;
}

async function listening(server: Server): Promise<Server> {
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  return server;
}

function portOf(server: Server): number {
  const address: AddressInfo | string | null = server.address();
  return typeof address === 'object' && address ? address.port : 0;
}

const timesAsked = (origin: FakeOrigin, ids: readonly Uint8Array[]): number[] =>
  ids.map(id => origin.count(`GET /${pathOf(id)}`));

it('fetches each chunk over the WAN once, however many devices ask both gateways of a site', async () => {
  const { origin, ids } = await published();
  const gateways = await pair(origin);
  const answers = await Promise.all(
    ids.flatMap(id => gateways.flatMap(gateway => [1, 2, 3, 4].map(() => gateway.get(pathOf(id))))),
  );
  expect(answers.every(({ status }) => status === 200)).toBe(true);
  expect(timesAsked(origin, ids)).toEqual(ids.map(() => 1));
  for (const [at, gateway] of gateways.entries()) {
    const owned = ids.filter(
      id =>
        ownerOf(
          Buffer.from(id).toString('hex'),
          gateways.map(one => one.id),
        ) === gateways[at]?.id,
    ).length;
    expect(owned).toBeGreaterThan(0);
    expect(await gateway.metric('sitecast_chunks_found_total{where="upstream"}')).toBe(owned);
    expect(await gateway.metric('sitecast_chunks_found_total{where="siteGateway"}')).toBeGreaterThanOrEqual(
      CHUNKS - owned,
    );
    expect(await gateway.metric('sitecast_chunk_takeovers_total')).toBe(0);
    expect(await gateway.metric('sitecast_chunk_disagreements_total')).toBe(0);
  }
});

it('continues when a gateway goes away, and fetches nothing again that the other has', async () => {
  const { origin, ids } = await published();
  const [one, two] = await pair(origin);
  for (const id of ids.slice(0, 20)) expect((await two.get(pathOf(id))).status).toBe(200);
  await one.close();
  for (const id of ids) expect((await two.get(pathOf(id))).status).toBe(200);
  expect(timesAsked(origin, ids)).toEqual(ids.map(() => 1));
  await until(async () => (await two.metric('sitecast_site_gateways')) === 1, 'it to be gone');
});

it('gets chunks from another gateway when its own disk was emptied', async () => {
  const { origin, ids } = await published();
  const [one, two] = await pair(origin);
  for (const id of ids) await two.get(pathOf(id));
  const { port } = new URL(one.url);
  await one.close();
  const fresh = await harness.gateway(origin, {
    listen: { host: '127.0.0.1', port: Number(port) },
    siteGateway: [two.url],
    prefetch: false,
  });
  await knowEachOther(fresh, two);
  for (const id of ids) expect((await fresh.get(pathOf(id))).status).toBe(200);
  expect(timesAsked(origin, ids)).toEqual(ids.map(() => 1));
});

it('gets chunks from another gateway of its site when the origin is unreachable', async () => {
  const { origin, ids } = await published();
  const [one, two] = await pair(origin);
  const port = Number(new URL(two.url).port);
  const { data } = two.settings;
  await two.close();
  // Nothing listens on this port.
  const [nobody] = await freePorts(1);
  const cut = await harness.gateway(origin, {
    data,
    origin: `http://127.0.0.1:${nobody}`,
    listen: { host: '127.0.0.1', port },
    siteGateway: [one.url],
    prefetch: false,
  });
  await knowEachOther(one, cut);
  for (const id of ids) expect((await cut.get(pathOf(id))).status).toBe(200);
  expect(timesAsked(origin, ids)).toEqual(ids.map(() => 1));
});

it('does not wait for a gateway that hangs, and accepts no garbage', async () => {
  const { origin, ids } = await published();
  const id = '12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN';
  let isHanging = false;
  const strange = createServer((request, response) => {
    if (isHanging) return;
    if (request.url?.startsWith('/chunks/')) response.end('garbage');
    else response.end(JSON.stringify({ id, site: 'north' }));
  });
  servers.push(await listening(strange));
  const gateway = await harness.gateway(origin, {
    siteGateway: [`http://127.0.0.1:${portOf(strange)}`],
    prefetch: false,
  });
  await until(async () => (await gateway.metric('sitecast_site_gateways')) === 2, 'it to be believed');
  expect((await gateway.get(pathOf(ids[0] ?? Buffer.alloc(32)))).status).toBe(200);
  isHanging = true;
  const answers = await Promise.all(ids.map(one => gateway.get(pathOf(one))));
  expect(answers.every(({ status }) => status === 200)).toBe(true);
  expect(timesAsked(origin, ids)).toEqual(ids.map(() => 1));
  expect(await gateway.metric('sitecast_chunk_takeovers_total')).toBeGreaterThan(0);
});

it('counts only gateways that declare its own site, in a valid answer', async () => {
  const { origin } = await published();
  const id = '12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN';
  const right = JSON.stringify({ id, site: 'north' });
  const says = [
    right,
    JSON.stringify({ id, site: 'porto' }),
    JSON.stringify({ id: 'x' }),
    `${right}${' '.repeat(MAX_IDENTITY_ANSWER_BYTES - right.length)}`,
    `${right}${' '.repeat(MAX_IDENTITY_ANSWER_BYTES - right.length + 1)}`,
    'hello',
  ];
  const asked = new Set<number>();
  const urls: string[] = [];
  for (const [at, text] of says.entries()) {
    const server = createServer((_request, response) => {
      asked.add(at);
      response.end(text);
    });
    servers.push(await listening(server));
    urls.push(`http://127.0.0.1:${portOf(server)}`);
  }
  // The site is known. The same id twice is one gateway.
  const gateway = await harness.gateway(origin, { siteGateway: urls });
  await gateway.untilEnrolled();
  await until(() => asked.size === says.length, 'all to be asked');
  const found = () => gateway.log.lines.filter(({ message }) => message.startsWith('another gateway'));
  await until(() => found().length >= 2, 'those to be believed that may be');
  expect(found().map(({ fields }) => Object.entries(fields).find(([name]) => name === 'url')?.[1])).toEqual(
    expect.arrayContaining([urls[0], urls[3]]),
  );
  expect(found()).toHaveLength(2);
  expect(await gateway.metric('sitecast_site_gateways')).toBe(2);
});
