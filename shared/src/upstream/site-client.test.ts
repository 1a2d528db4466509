import { once } from 'node:events';
import { mkdtemp } from 'node:fs/promises';
import { createServer, type RequestListener, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { Identity } from '../identity/index.ts';
import { KeyPair } from '../signing/index.ts';
import { type LearnedReceiver, SiteClient } from './site-client.ts';
import { portOf } from '../outbound/testing/index.ts';

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

/** A server with the given behaviour, and a client of it. */
async function asking(
  answer: RequestListener,
  now = () => Date.now(),
  receiver: string | LearnedReceiver = 'origin',
) {
  const server = createServer(answer);
  servers.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const identity = await Identity.open(await mkdtemp(join(tmpdir(), 'sitecast-client-')));
  const code = 'SITECAST_GATEWAY_UNREACHABLE';
  return new SiteClient(`http://127.0.0.1:${portOf(server)}/`, {
    identity,
    receiver,
    now,
    code,
    timeoutMs: 5000,
  });
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

describe('the server that a request is meant for', () => {
  const [first, second] = [new Identity(KeyPair.generate()).id, new Identity(KeyPair.generate()).id];
  /** One that believes whatever it is told, but for one name. */
  function learning(name?: string, unbelieved?: string) {
    const its = { name, confirmed: 0 };
    const receiver: LearnedReceiver = {
      get name() {
        return its.name;
      },
      learn: async said => {
        if (said !== unbelieved) its.name = said;
        return said !== unbelieved;
      },
      confirm: () => {
        its.confirmed += 1;
      },
    };
    return { its, receiver };
  }
  /** Answers as a gateway of this id, and notes for whom requests were meant. */
  function gateway(id: () => string, meant: unknown[]): RequestListener {
    return (request, response) => {
      if (request.url === '/site/v1/gateway') return response.end(JSON.stringify({ id: id() }));
      const [name, own] = [request.headers['sitecast-receiver'], id()];
      meant.push(name);
      const misdirected = { code: 'SITECAST_REQUEST_MISDIRECTED', data: { receiver: own } };
      response.statusCode = name === own ? 200 : 401;
      return response.end(JSON.stringify(name === own ? {} : misdirected));
    };
  }
  const body = Buffer.from('{}');

  it('is asked for before anything is signed, once', async () => {
    const meant: unknown[] = [];
    const { its, receiver } = learning();
    const client = await asking(
      gateway(() => first, meant),
      Date.now,
      receiver,
    );
    for (const confirmed of [1, 2]) {
      expect(await client.post('/site/v1/reports', body)).toMatchObject({ status: 200 });
      expect(its).toEqual({ name: first, confirmed });
    }
    await client.get('/metadata/timestamp.json', { isSigned: true });
    expect(meant).toEqual([first, first, first]);
  });

  it('is the origin where that has no such path', async () => {
    const { its, receiver } = learning();
    const answer: RequestListener = (request, response) => {
      response.statusCode = request.method === 'GET' ? 404 : 200;
      response.end(JSON.stringify({ code: 'SITECAST_NOT_FOUND' }));
    };
    expect(await (await asking(answer, Date.now, receiver)).post('/x', body)).toMatchObject({ status: 200 });
    expect(its.name).toBe('origin');
  });

  it.each([
    [404, '<html>'],
    [503, '{"code":"SITECAST_NOT_READY"}'],
    [200, '{"id":7}'],
  ])('is unknown where %i with %s answers, and nothing is signed', async (status, page) => {
    const paths: unknown[] = [];
    const { its, receiver } = learning();
    const answer: RequestListener = (request, response) => {
      paths.push(request.url);
      response.writeHead(status).end(page);
    };
    const client = await asking(answer, Date.now, receiver);
    await expect(client.post('/x', body)).rejects.toMatchObject({ code: 'SITECAST_GATEWAY_UNREACHABLE' });
    expect(its.name).toBeUndefined();
    expect(paths).toEqual(['/site/v1/gateway']);
  });

  it('is learned anew from the one that answers, unless that is not believed', async () => {
    const meant: unknown[] = [];
    const { its, receiver } = learning(first);
    const client = await asking(
      gateway(() => second, meant),
      Date.now,
      receiver,
    );
    expect(await client.post('/x', body)).toMatchObject({ status: 200 });
    expect(its.name).toBe(second);
    expect(meant).toEqual([first, second]);
    const doubting = learning(first, second);
    const doubter = await asking(
      gateway(() => second, meant),
      Date.now,
      doubting.receiver,
    );
    await expect(doubter.post('/x', body)).rejects.toMatchObject({
      code: 'SITECAST_GATEWAY_UNREACHABLE',
      message: expect.stringContaining(`it says that it is ${second}, which is known elsewhere`),
    });
    expect(doubting.its).toEqual({ name: first, confirmed: 0 });
  });

  it('is unknown where it says another name each time, or none, or the server is the origin whatever it says', async () => {
    const ids = [first, second];
    const turning = await asking(
      gateway(() => ids.reverse()[0] ?? first, []),
      Date.now,
      learning('x').receiver,
    );
    const nameless = await asking(
      gateway(() => 'x', []),
      Date.now,
      learning(first).receiver,
    );
    const origins = await asking(gateway(() => first, []));
    for (const client of [turning, nameless, origins])
      await expect(client.post('/x', body)).rejects.toMatchObject({ code: 'SITECAST_GATEWAY_UNREACHABLE' });
  });
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
