import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { signRequest } from '@sitecast/shared/http-signature';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { FakeOrigin } from '@sitecast/shared/testing/origin';
import {
  removeTemporaryDirectories,
  TestDevice,
  type TestGateway,
  GatewayHarness,
} from '../testing/harness.ts';
import { MAX_BODY_BYTES } from './signed.ts';

const harness = new GatewayHarness();
let origin: FakeOrigin;
let gateway: TestGateway;
beforeAll(async () => {
  ({ origin } = await harness.originWith(Buffer.alloc(20_000, 'a release ')));
  gateway = await harness.gateway(origin);
});
afterAll(async () => {
  await harness.closeAll();
  await removeTemporaryDirectories();
});

interface Operation {
  method: string;
  path: string;
}

async function operations(): Promise<Operation[]> {
  const document: { paths: Record<string, Record<string, unknown>> } = JSON.parse(
    (await gateway.get('openapi.json')).body.toString(),
  );
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map(method => ({ method: method.toUpperCase(), path })),
  );
}

const NASTY = [
  '..%2f..%2f..%2fetc%2fpasswd',
  '%00',
  '%ff%fe',
  '__proto__',
  'constructor',
  'a'.repeat(5000),
  '12D3KooW%20',
  '0'.repeat(64),
];
const BODIES = [
  '',
  '{',
  'null',
  '[]',
  '{}',
  '"text"',
  '{"__proto__":{"a":1}}',
  '{"reports":[],"envelope":null,"progress":{},"id":7}',
  '{"reports":[{"payload":1}],"envelope":{"payload":"","payloadType":"","signatures":[]}}',
  `{"a":${'['.repeat(5000)}${']'.repeat(5000)}}`,
];

it('refuses malformed requests on every described route, with a problem and a stable code', async () => {
  const device = new TestDevice();
  const all = await operations();
  expect(all.length).toBeGreaterThan(10);
  for (const { method, path } of all) {
    const parts = path.match(/\{\w+\}/g)?.length ?? 0;
    const urls = parts === 0 ? [path] : NASTY.map(value => path.replace(/\{\w+\}/g, value));
    for (const url of urls) {
      const bodies = method === 'POST' ? BODIES : [undefined];
      for (const body of bodies) {
        const unsigned = await fetch(gateway.url + url, {
          method,
          ...(body === undefined ? {} : { body, headers: { 'content-type': 'application/json' } }),
        });
        expect([method, url, body, unsigned.status < 500]).toEqual([method, url, body, true]);
        if (parts > 0 || method === 'POST') await expectProblem(unsigned);
        else await unsigned.arrayBuffer();
        if (body === undefined) continue;
        const signed = await device.postBytes(gateway.url + url, Buffer.from(body));
        expect([url, body, signed.status >= 400 && signed.status < 500]).toEqual([url, body, true]);
      }
    }
    const wrong = await fetch(gateway.url + (urls[0] ?? ''), { method: 'DELETE' });
    expect([404, 405, 400]).toContain(wrong.status);
    await expectProblem(wrong);
  }
});

async function expectProblem(response: Response): Promise<void> {
  expect(response.headers.get('content-type')).toBe('application/problem+json');
  const problem: Record<string, unknown> = JSON.parse(await response.text());
  expect(problem).toMatchObject({ type: 'about:blank', status: response.status });
  expect(problem.code).toMatch(/^SITECAST_[A-Z_]+$/);
}

it('accepts a body of the longest allowed length, and not a byte more', async () => {
  const device = new TestDevice();
  const url = `${gateway.url}/site/v1/progress`;
  const padded = (lengthBytes: number) => {
    const frame = JSON.stringify({ pad: '' }).length;
    return { pad: 'x'.repeat(lengthBytes - frame) };
  };
  expect((await device.post(url, padded(MAX_BODY_BYTES))).json).toMatchObject({
    code: 'SITECAST_REQUEST_INVALID',
  });
  expect(await device.post(url, padded(MAX_BODY_BYTES + 1))).toMatchObject({
    status: 413,
    json: { code: 'SITECAST_BODY_TOO_LARGE' },
  });
});

it('ends a body that never ends, and a malformed request', async () => {
  const { port } = new URL(gateway.url);
  const say = (head: string, isEndless: boolean) =>
    new Promise<string>(resolve => {
      const socket = connect(Number(port), '127.0.0.1');
      let heard = '';
      let sentBytes = 0;
      const more = (): void => {
        while (!socket.destroyed && sentBytes < 64 * MAX_BODY_BYTES) {
          sentBytes += 65_536;
          if (!socket.write(`10000\r\n${'x'.repeat(65_536)}\r\n`)) {
            socket.once('drain', more);
            return;
          }
        }
      };
      socket.on('data', data => {
        heard += data.toString();
      });
      // The answer before the error matters.
      socket.on('error', () => undefined);
      socket.on('close', () => resolve(heard));
      socket.write(head);
      if (isEndless) more();
    });
  const head =
    'POST /site/v1/reports HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n';
  // The request is unsigned, so it is refused before its body is read.
  expect(await say(head, true)).toContain(' 401 ');
  expect(await say('NONSENSE\r\n\r\n', false)).toContain(' 400 ');
  expect(await say(`GET /healthz HTTP/1.1\r\nx: ${'a'.repeat(40_000)}\r\n\r\n`, false)).toContain(' 431 ');
  expect((await gateway.get('healthz')).status).toBe(200);
});

it('accepts what a device sends, however many strangers withhold their bodies', async () => {
  const url = `${gateway.url}/site/v1/reports`;
  const endless = Buffer.alloc(MAX_BODY_BYTES, ' ');
  const { port } = new URL(gateway.url);
  const sockets: Socket[] = [];
  const closed: Promise<unknown>[] = [];
  for (let count = 0; count < 9; count += 1) {
    const signed = await signRequest(
      { method: 'POST', url, body: endless },
      new TestDevice().identity,
      Date.now(),
    );
    const fields = { host: `127.0.0.1:${port}`, 'content-type': 'application/json', ...signed };
    const head = Object.entries({ ...fields, 'content-length': endless.length })
      .map(([name, value]) => `${name}: ${value}\r\n`)
      .join('');
    const socket = connect({ port: Number(port), host: '127.0.0.1' });
    socket.on('error', () => undefined);
    closed.push(once(socket, 'close'));
    socket.write(`POST /site/v1/reports HTTP/1.1\r\n${head}\r\n   `);
    sockets.push(socket);
  }
  const device = new TestDevice();
  expect((await device.post(url, { reports: [await device.report()] })).status).toBe(202);
  await Promise.any(closed);
  for (const socket of sockets) socket.destroy();
});

it('takes what is meant for it, and nothing that a device sent to another gateway or to the origin', async () => {
  const device = new TestDevice();
  const url = `${gateway.url}/site/v1/reports`;
  const send = async (receiver: string) => {
    const body = Buffer.from(JSON.stringify({ reports: [await device.report()] }));
    const signed = await signRequest({ method: 'POST', url, body, receiver }, device.identity, Date.now());
    const headers = { 'content-type': 'application/json', ...signed };
    const response = await fetch(url, { method: 'POST', body, headers });
    return { status: response.status, json: JSON.parse(await response.text()) };
  };
  expect(await send(gateway.id)).toMatchObject({ status: 202 });
  for (const receiver of [new TestDevice().id, 'origin'])
    expect(await send(receiver)).toMatchObject({
      status: 401,
      json: { code: 'SITECAST_REQUEST_MISDIRECTED', data: { receiver: gateway.id } },
    });
});

it('refuses a signed request the second time', async () => {
  const device = new TestDevice();
  const body = Buffer.from(JSON.stringify({ reports: [await device.report()] }));
  const url = `${gateway.url}/site/v1/reports`;
  const headers = {
    'content-type': 'application/json',
    ...(await signRequest({ method: 'POST', url, body }, device.identity, Date.now())),
  };
  const send = () => fetch(url, { method: 'POST', body, headers });
  expect((await send()).status).toBe(202);
  const again = await send();
  expect(again.status).toBe(401);
  expect(JSON.parse(await again.text())).toMatchObject({ code: 'SITECAST_REQUEST_REPLAYED' });
});
