import { once } from 'node:events';
import { mkdtemp } from 'node:fs/promises';
import { createServer, type RequestListener, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { Identity } from '../identity/index.ts';
import { SiteClient } from './site-client.ts';
import { portOf } from '../outbound/testing/index.ts';

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

/** A server with the given behaviour, and a client of it. */
async function asking(answer: RequestListener, now = () => Date.now()) {
  const server = createServer(answer);
  servers.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const identity = await Identity.open(await mkdtemp(join(tmpdir(), 'sitecast-client-')));
  const code = 'SITECAST_GATEWAY_UNREACHABLE';
  return new SiteClient(`http://127.0.0.1:${portOf(server)}/`, { identity, now, code, timeoutMs: 5000 });
}

const createdIn = (signature: string | string[] | undefined): number =>
  Number(/;created=(\d+)/.exec(String(signature))?.[1]) * 1000;

it("signs by the server's clock once the server has said that the local clock is wrong, and repeats the request", async () => {
  const serversMs = Date.now();
  const signedMs: number[] = [];
  const client = await asking(
    (request, response) => {
      const createdMs = createdIn(request.headers['signature-input']);
      signedMs.push(createdMs);
      const isRight = Math.abs(createdMs - serversMs) < 60_000;
      response.writeHead(isRight ? 200 : 401, { date: new Date(serversMs).toUTCString() });
      response.end(JSON.stringify(isRight ? { is: 'right' } : { code: 'SITECAST_REQUEST_CLOCK' }));
    },
    () => serversMs - 86_400_000,
  );
  for (const requests of [2, 3]) {
    const answer = await client.post('/site/v1/reports', Buffer.from('{}'));
    expect(answer).toMatchObject({ status: 200, json: { is: 'right' } });
    expect(signedMs).toHaveLength(requests);
  }
});

it('signs by no time that a signature cannot carry, and follows the next clock after the latest that it takes', async () => {
  const dates = [
    'Sat, 13 Sep 275760 00:00:00 GMT',
    'Thu, 01 Jan 1970 00:00:00 GMT',
    'Fri, 31 Dec 8999 00:00:00 GMT',
  ];
  const signedMs: number[] = [];
  const client = await asking((request, response) => {
    signedMs.push(createdIn(request.headers['signature-input']));
    const isRight = dates.length === 0 && Math.abs((signedMs.at(-1) ?? 0) - Date.now()) < 60_000;
    const date = dates.shift() ?? new Date().toUTCString();
    response.writeHead(isRight ? 200 : 401, { date });
    response.end(JSON.stringify({ code: 'SITECAST_REQUEST_CLOCK' }));
  });
  for (const status of [401, 401, 401])
    expect(await client.post('/x', Buffer.from('{}'))).toMatchObject({ status });
  // Two dates were passed over, the third one was followed.
  expect(signedMs).toHaveLength(4);
  expect(signedMs.every(Number.isSafeInteger)).toBe(true);
  expect(await client.post('/x', Buffer.from('{}'))).toMatchObject({ status: 200 });
});

it('returns the answer where a new signature would change nothing', async () => {
  let requests = 0;
  const client = await asking((_request, response) => {
    requests += 1;
    response.sendDate = false;
    response.writeHead(401).end(JSON.stringify({ code: 'SITECAST_REQUEST_CLOCK' }));
  });
  expect(await client.post('/x', Buffer.from('{}'))).toMatchObject({ status: 401 });
  expect(requests).toBe(1);
});

it('reads an answer up to its bound, and not a byte more', async () => {
  const client = await asking((request, response) =>
    response.end('1'.repeat(request.url === '/bound' ? 100 : 101)),
  );
  expect(await client.get('/bound', { maxBytes: 100 })).toMatchObject({ lengthBytes: 100 });
  await expect(client.get('/beyond', { maxBytes: 100 })).rejects.toMatchObject({
    code: 'SITECAST_GATEWAY_UNREACHABLE',
    message: `${client.url}/beyond: it sends more than 100 bytes`,
  });
});

it('follows no redirect, and reports a page where JSON is expected', async () => {
  const client = await asking((request, response) => {
    if (request.url === '/moved') response.writeHead(302, { location: '/elsewhere' }).end();
    else response.end('<html>');
  });
  await expect(client.get('/moved')).rejects.toMatchObject({
    code: 'SITECAST_GATEWAY_UNREACHABLE',
    message: expect.stringContaining('redirects are not followed'),
  });
  expect(await client.get('/page')).toMatchObject({ status: 200, json: undefined, lengthBytes: 6 });
});
