import { once } from 'node:events';
import { mkdtemp, writeFile } from 'node:fs/promises';
import * as http from 'node:http';
import * as https from 'node:https';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { chunkIdOf, HttpStore } from '../content/index.ts';
import { HttpFetcher } from '../trust/index.ts';
import { Connections } from './connections.ts';
import { noAnswer } from './failure.ts';
import { HttpClient, readBounded } from './http-client.ts';
import { ELSEWHERE, EXPIRED, portOf, SELF_SIGNED, TEST_CA, TestProxy, VALID } from './testing/index.ts';
import { timedOut, TunnelAgent } from './tunnel.ts';

const MAX_ANSWER_BYTES = 1000;

let directory: string;
let caPath: string;
let proxy: TestProxy;
const servers: Server[] = [];

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-outbound-'));
  caPath = join(directory, 'ca.pem');
  await writeFile(caPath, TEST_CA);
});
afterEach(async () => {
  await proxy?.close();
  for (const server of servers.splice(0)) {
    server.close();
    if (server instanceof http.Server || server instanceof https.Server) server.closeAllConnections();
  }
});
afterAll(() => {
  Connections.direct.shared.close();
});

const answering: http.RequestListener = (request, response) =>
  response.end(`${request.method} ${request.url} ${request.headers.host}`);

async function listening(server: Server): Promise<number> {
  servers.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return portOf(server);
}

const secure = (certificate: { cert: string; key: string }, answer = answering): Promise<number> =>
  listening(https.createServer(certificate, answer));

const open = (
  variables: Record<string, string> = {},
  ca: string | undefined = caPath,
): Promise<Connections> => Connections.open({ ca, variables });

function ask(connections: Connections, url: string): Promise<string> {
  const client = new HttpClient(url, { connections, code: 'SITECAST_ORIGIN_UNREACHABLE' });
  return client.exchange('', { timeoutMs: 30_000 }, async ({ body }) =>
    String(await readBounded(body, MAX_ANSWER_BYTES)),
  );
}

describe('TLS', () => {
  it('trusts the authority of --ca, and still those of Node', async () => {
    const port = await secure(VALID);
    expect(await ask(await open(), `https://localhost:${port}/x`)).toBe(`GET /x localhost:${port}`);
    expect(await ask(await open(), `https://127.0.0.1:${port}/`)).toContain('GET /');
  });

  it.each([
    ['an authority nobody named', VALID, undefined, 'SITECAST_TLS_AUTHORITY_UNKNOWN', '--ca FILE'],
    ['an expired certificate', EXPIRED, 'ca', 'SITECAST_TLS_EXPIRED', 'renews it'],
    ['a certificate of another name', ELSEWHERE, 'ca', 'SITECAST_TLS_NAME_MISMATCH', 'Use a name'],
    ['a self-signed certificate', SELF_SIGNED, 'ca', 'SITECAST_TLS_SELF_SIGNED', 'that very certificate'],
  ] as const)('reports %s', async (_what, certificate, ca, code, hint) => {
    const port = await secure(certificate);
    const connections = await Connections.open({ ca: ca && caPath, variables: {} });
    await expect(ask(connections, `https://localhost:${port}/`)).rejects.toMatchObject({
      code,
      kind: 'untrusted',
      message: expect.stringContaining('localhost'),
      hint: expect.stringContaining(hint),
    });
  });

  it('names the host names of a certificate that does not match', async () => {
    const port = await secure(ELSEWHERE);
    await expect(ask(await open(), `https://127.0.0.1:${port}/`)).rejects.toThrow('for DNS:elsewhere.test');
  });

  it('accepts a self-signed certificate that is named with --ca', async () => {
    const own = join(directory, 'own.pem');
    await writeFile(own, SELF_SIGNED.cert);
    const port = await secure(SELF_SIGNED);
    expect(await ask(await open({}, own), `https://localhost:${port}/`)).toContain('GET /');
  });

  it('says whether the server speaks TLS where the client expects the opposite', async () => {
    const plain = await listening(http.createServer(answering));
    await expect(ask(await open(), `https://localhost:${plain}/`)).rejects.toMatchObject({
      code: 'SITECAST_TLS_FAILED',
      kind: 'unreachable',
      hint: expect.stringContaining('http://'),
    });
  });

  it('that fails is reported by clients that retry as unreachable', async () => {
    const base = `https://localhost:${await secure(EXPIRED)}`;
    const expected = { code: 'SITECAST_TLS_EXPIRED', kind: 'unreachable' };
    const connections = await open();
    await expect(new HttpFetcher(base, { connections }).fetch('x', { maxBytes: 9 })).rejects.toMatchObject(
      expected,
    );
    await expect(
      new HttpStore(base, { via: connections }).has(chunkIdOf(Buffer.alloc(1))),
    ).rejects.toMatchObject(expected);
  });

  it.each([
    ['no certificate', 'ca: nothing', 'SITECAST_CA_INVALID'],
    ['a private key', VALID.key, 'SITECAST_CA_INVALID'],
    ['half a certificate', TEST_CA.replace(/\n.{20}/, '\n'), 'SITECAST_CA_INVALID'],
    ['too much', Buffer.alloc(1024 * 1024 + 1, 32), 'SITECAST_FILE_TOO_LARGE'],
  ])('refuses a file that holds %s', async (_what, text, code) => {
    const path = join(directory, 'bad.pem');
    await writeFile(path, text);
    await expect(open({}, path)).rejects.toMatchObject({ code });
  });
});

describe('a server without an answer', () => {
  it('is reported as not running, or as a name that does not resolve', async () => {
    const gone = createServer();
    const port = await listening(gone);
    gone.close();
    await once(gone, 'close');
    await expect(ask(await open(), `http://127.0.0.1:${port}/`)).rejects.toMatchObject({
      code: 'SITECAST_ORIGIN_UNREACHABLE',
      message: expect.stringContaining('nothing listens there'),
      data: { reason: 'ECONNREFUSED' },
    });
    await expect(ask(await open(), 'http://no-such-host.invalid/')).rejects.toMatchObject({
      code: 'SITECAST_NAME_UNRESOLVED',
    });
  });

  it('is reported as a timeout where it takes too long to connect', () => {
    const { direct: connections } = Connections;
    const options = { code: 'SITECAST_ORIGIN_UNREACHABLE', connections } as const;
    expect(noAnswer(timedOut(10_000), new URL('https://origin.example'), options)).toMatchObject({
      code: 'SITECAST_CONNECTION_TIMED_OUT',
      kind: 'unreachable',
      message: 'https://origin.example/: no connection to origin.example in time',
    });
  });
});

describe('a request through a proxy', () => {
  it('uses CONNECT for https and the whole URL for http, sends credentials, and keeps connections', async () => {
    proxy = await TestProxy.start();
    const variable = proxy.url.replace('//', '//me:s%40crt@');
    const connections = await open({ https_proxy: variable, HTTP_PROXY: proxy.url, NO_PROXY: 'localhost' });
    const tls = await secure(VALID);
    const plain = await listening(http.createServer(answering));
    for (const path of ['a', 'b'])
      expect(await ask(connections, `https://server.test:${tls}/${path}`)).toBe(
        `GET /${path} server.test:${tls}`,
      );
    expect(await ask(connections, `http://server.test:${plain}/c?d`)).toContain(`server.test:${plain}`);
    expect(await ask(connections, `https://localhost:${tls}/direct`)).toContain('GET /direct');
    expect(proxy.asked).toEqual([`CONNECT server.test:${tls}`, `GET http://server.test:${plain}/c?d`]);
    expect(proxy.credentials).toEqual([`Basic ${Buffer.from('me:s@crt').toString('base64')}`, undefined]);
  });

  it('checks the certificate of the server behind the proxy', async () => {
    proxy = await TestProxy.start();
    const connections = await open({ HTTPS_PROXY: proxy.url });
    await expect(ask(connections, `https://server.test:${await secure(ELSEWHERE)}/`)).rejects.toMatchObject({
      code: 'SITECAST_TLS_NAME_MISMATCH',
      message: expect.stringContaining('through the proxy'),
    });
  });

  it('receives a stream and a long poll as they come', async () => {
    proxy = await TestProxy.start();
    let more: () => void = () => {};
    const port = await secure(VALID, (_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write('data: 1\n\n');
      more = () => response.end('data: 2\n\n');
    });
    const connections = await open({ HTTPS_PROXY: proxy.url });
    const client = new HttpClient(`https://server.test:${port}/`, {
      connections,
      code: 'SITECAST_ORIGIN_UNREACHABLE',
    });
    const seen: string[] = [];
    await client.exchange('', {}, async ({ body }) => {
      for await (const piece of body) {
        seen.push(piece.toString());
        more();
      }
    });
    expect(seen).toEqual(['data: 1\n\n', 'data: 2\n\n']);
    const waiting = ask(connections, `https://server.test:${port}/`);
    await expect.poll(() => proxy.asked.length).toBe(1);
    await proxy.close();
    await expect(waiting).rejects.toMatchObject({ kind: 'unreachable' });
  });

  it.each([
    [407, 'credentials'],
    [403, 'rules'],
    [502, 'host'],
  ])('explains status %i of a proxy', async (status, hint) => {
    proxy = await TestProxy.start();
    proxy.refuses = status;
    const connections = await open({ HTTPS_PROXY: proxy.url });
    await expect(ask(connections, 'https://server.test/')).rejects.toMatchObject({
      code: 'SITECAST_PROXY_REFUSED',
      kind: 'unreachable',
      message: expect.stringContaining(`answered ${status}`),
      hint: expect.stringContaining(hint),
      data: { proxy: `${proxy.url} (HTTPS_PROXY)` },
    });
  });

  it('tells an absent or silent proxy from an absent server', async () => {
    proxy = await TestProxy.start();
    const { url } = proxy;
    proxy.refuses = 0;
    const silent = new TunnelAgent(
      { url: new URL(url), variable: 'HTTPS_PROXY' },
      { trusted: undefined, timeoutMs: 50 },
    );
    const request = https.get('https://server.test/', { agent: silent });
    const [error]: unknown[] = await once(request, 'error');
    const connections = await open({ HTTPS_PROXY: url, HTTP_PROXY: url });
    const options = { code: 'SITECAST_ORIGIN_UNREACHABLE', connections } as const;
    expect(noAnswer(error, new URL('https://server.test'), options)).toMatchObject({
      code: 'SITECAST_PROXY_UNREACHABLE',
      message: expect.stringContaining('in time'),
    });
    await proxy.close();
    for (const target of ['https://server.test/', 'http://server.test/'])
      await expect(ask(connections, target)).rejects.toMatchObject({
        code: 'SITECAST_PROXY_UNREACHABLE',
        message: expect.stringMatching(/by the proxy .*: nothing listens there/),
        hint: expect.stringContaining('NO_PROXY'),
      });
  });
});
