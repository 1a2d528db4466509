import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { TLSSocket } from 'node:tls';
import { MAX_BATCH_BYTES } from '@sitecast/shared/content';
import { signRequest } from '@sitecast/shared/http-signature';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MAX_STRANGERS_BODY_MEMORY_BYTES } from '../http/memory.ts';
import { MAX_SITE_BODY_BYTES } from '@sitecast/shared/api';
import { batchOf, hexOf, TestOperator } from '../testing/operator.ts';
import { openTestOrigin, type TestOrigin } from '../testing/origin.ts';
import { randomChunks, temporaryDirectory } from '../testing/setup.ts';
import { testDisk } from './disk/testing/test-disk.ts';
import { listen, type RunningServer } from './http-server.ts';

let directory: ReturnType<typeof temporaryDirectory>;
let origin: TestOrigin;
let operator: TestOperator;
let server: RunningServer;
const sockets: Socket[] = [];

async function serve(options: object = {}): Promise<void> {
  const disks = testDisk(directory.path);
  origin = await openTestOrigin({ ...disks, now: Date.now, ...options });
  operator = new TestOperator((path, init) => origin.app.request(path, init), origin.adminToken);
  server = await listen(origin.app, { host: '127.0.0.1', port: 0 });
}

beforeEach(() => {
  directory = temporaryDirectory();
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await server.close(0);
  await directory.remove();
});

/** A connection, the bytes received over it so far, and its end. */
function dial(): {
  socket: Socket;
  received: () => string;
  until: (text: string) => Promise<string>;
  ended: Promise<void>;
} {
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  sockets.push(socket);
  let text = '';
  socket.on('error', () => {});
  socket.on('data', bytes => {
    text += bytes.toString('latin1');
  });
  return {
    socket,
    received: () => text,
    ended: new Promise(resolve => socket.once('close', () => resolve())),
    until: wanted =>
      new Promise((resolve, reject) => {
        const look = () => text.includes(wanted) && resolve(text);
        socket.on('data', look);
        socket.once('close', () =>
          text.includes(wanted) ? resolve(text) : reject(new Error(`closed after: ${text}`)),
        );
        look();
      }),
  };
}

function head(method: string, path: string, headers: Record<string, string | number> = {}): string {
  const all = {
    host: 'origin',
    authorization: `Bearer ${origin.adminToken}`,
    'content-type': 'application/octet-stream',
    ...headers,
  };
  return `${method} ${path} HTTP/1.1\r\n${Object.entries(all)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('')}\r\n`;
}

const stagedFiles = () => readdirSync(join(directory.path, 'staging/files'));

describe('a body', () => {
  it('that stops arriving is given up, and its connection with it', async () => {
    await serve({ pace: { maxSilenceMs: 50, minTimeMs: 60_000, minBytesPerS: 1024 } });
    for (const path of ['/api/v1/chunks', '/api/v1/chunks/missing', `/api/v1/files/${'a'.repeat(64)}`]) {
      const { socket, until, ended } = dial();
      socket.write(
        head(path.includes('files') ? 'PUT' : 'POST', path, { 'content-length': 1000 }) + 'x'.repeat(10),
      );
      expect(await until('SITECAST_BODY_TOO_SLOW')).toContain('HTTP/1.1 408 ');
      await ended;
    }
    expect(stagedFiles()).toEqual([]);
  });

  it('that arrives too slowly, byte by byte, is given up, too', async () => {
    await serve({ pace: { maxSilenceMs: 60_000, minTimeMs: 100, minBytesPerS: 2 ** 40 } });
    const { socket, until } = dial();
    socket.write(head('POST', '/api/v1/chunks', { 'content-length': 100_000 }));
    const drip = setInterval(() => socket.write('x'), 10);
    expect(await until('SITECAST_BODY_TOO_SLOW')).toContain('HTTP/1.1 408 ');
    clearInterval(drip);
  });

  it('that exceeds the bound without announcing it is refused at the bound', async () => {
    await serve();
    const { socket, until } = dial();
    socket.write(head('POST', '/api/v1/chunks', { 'transfer-encoding': 'chunked' }));
    const piece = Buffer.concat([Buffer.from('100000\r\n'), Buffer.alloc(1024 * 1024), Buffer.from('\r\n')]);
    for (let sent = 0; sent <= MAX_BATCH_BYTES; sent += 1024 * 1024) socket.write(piece);
    expect(await until('SITECAST_BODY_TOO_LARGE')).toContain('HTTP/1.1 413 ');
  });

  it('of exactly the longest length is accepted', async () => {
    await serve();
    const response = await fetch(`${server.url}/api/v1/chunks`, {
      method: 'POST',
      body: Buffer.alloc(MAX_BATCH_BYTES),
      headers: { authorization: `Bearer ${origin.adminToken}`, 'content-type': 'application/octet-stream' },
    });
    // All of it arrived. Only its content is wrong.
    expect(await response.json()).toMatchObject({ code: 'SITECAST_BATCH_MALFORMED' });
  });

  it('whose sender disconnects leaves nothing on the disk or in the shared memory', async () => {
    await serve({ maxBodyMemoryBytes: MAX_BATCH_BYTES });
    for (let round = 0; round < 3; round += 1) {
      for (const [method, path] of [
        ['POST', '/api/v1/chunks'],
        ['PUT', `/api/v1/files/${'a'.repeat(64)}`],
      ]) {
        const { socket, ended } = dial();
        socket.write(
          head(method ?? '', path ?? '', { 'content-length': MAX_BATCH_BYTES }) + 'x'.repeat(1000),
        );
        await new Promise(resolve => setTimeout(resolve, 30));
        socket.destroy();
        await ended;
      }
    }
    await expect.poll(() => stagedFiles()).toEqual([]);
    const upload = () => operator.uploadChunks(randomChunks(1)).then(({ status }) => status);
    await expect.poll(upload).toBe(200);
    const whole = Buffer.concat(randomChunks(7, 1024 * 1024));
    const send = () =>
      fetch(`${server.url}/api/v1/files/${hexOf(whole)}`, {
        method: 'PUT',
        body: whole,
        headers: { authorization: `Bearer ${origin.adminToken}`, 'content-type': 'application/octet-stream' },
      });
    expect((await send()).status).toBe(204);
    expect(stagedFiles()).toEqual([hexOf(whole)]);
  });

  it('that finds the shared memory full is refused for the moment, and accepted later', async () => {
    await serve({ maxBodyMemoryBytes: 2 * MAX_BATCH_BYTES });
    const waiting = [dial(), dial()];
    for (const { socket } of waiting) {
      socket.write(head('POST', '/api/v1/chunks', { 'content-length': MAX_BATCH_BYTES }) + 'x'.repeat(10));
    }
    const upload = async () => {
      const response = await fetch(`${server.url}/api/v1/chunks`, {
        method: 'POST',
        body: batchOf(randomChunks(1)),
        headers: { authorization: `Bearer ${origin.adminToken}`, 'content-type': 'application/octet-stream' },
      });
      return [response.status, response.headers.get('retry-after'), JSON.parse(await response.text()).code];
    };
    await expect.poll(upload).toEqual([503, '1', 'SITECAST_BUSY']);
    waiting[0]?.socket.destroy();
    await expect.poll(upload).toEqual([200, null, undefined]);
  });

  it('of a new device is accepted, however many strangers hold theirs back', async () => {
    await serve();
    const path = '/site/v1/enrolments';
    const signed = async (body: Buffer) => {
      const request = { method: 'POST', url: `http://origin${path}`, body };
      const signature = await signRequest(request, new Identity(KeyPair.generate()), Date.now());
      return { ...signature, 'content-type': 'application/json', 'content-length': body.length };
    };
    const endless = Buffer.alloc(MAX_SITE_BODY_BYTES, ' ');
    const slow = [];
    for (let count = 0; count < MAX_STRANGERS_BODY_MEMORY_BYTES / endless.length; count += 1) {
      slow.push(dial());
      slow.at(-1)?.socket.write(`${head('POST', path, await signed(endless))}   `);
    }
    const newcomer = dial();
    const body = Buffer.from('{}');
    newcomer.socket.write(head('POST', path, await signed(body)) + body.toString());
    expect(await newcomer.until('SITECAST_REQUEST_INVALID')).toContain('HTTP/1.1 400 ');
    // The stranger that has held memory for the longest was cut off.
    await Promise.any(slow.map(({ ended }) => ended));
  });

  it('is not read before the token was checked', async () => {
    await serve();
    const stranger = dial();
    const asking = { 'content-length': 1000, expect: '100-continue' };
    stranger.socket.write(head('POST', '/api/v1/chunks', { ...asking, authorization: 'Bearer x' }));
    expect(await stranger.until('SITECAST_TOKEN_INVALID')).not.toContain('100 Continue');
    const known = dial();
    const batch = batchOf(randomChunks(1));
    known.socket.write(head('POST', '/api/v1/chunks', { ...asking, 'content-length': batch.length }));
    await known.until('100 Continue');
    known.socket.write(batch);
    expect(await known.until('"stored":1')).toContain('HTTP/1.1 200 ');
  });

  it('that is refused midway does not affect the next request of the connection', async () => {
    await serve();
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const post = (body: Buffer) =>
      new Promise<number | undefined>((resolve, reject) => {
        const headers = {
          authorization: `Bearer ${origin.adminToken}`,
          'content-type': 'application/octet-stream',
        };
        const request = http.request(
          `${server.url}/api/v1/chunks`,
          { method: 'POST', agent, headers },
          response => {
            response.resume().on('end', () => resolve(response.statusCode));
          },
        );
        request.on('error', reject).end(body);
      });
    expect(await post(Buffer.alloc(1_000_000))).toBe(400);
    expect(await post(batchOf(randomChunks(2)))).toBe(200);
    agent.destroy();
  });
});

describe('a malformed request', () => {
  it.each([
    ['another protocol', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n', 400],
    ['a head that is too long', `GET / HTTP/1.1\r\nhost: x\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`, 431],
    ['no host', 'GET /healthz HTTP/1.1\r\n\r\n', 400],
    ['a host that is none', 'GET /healthz HTTP/1.1\r\nhost: a b\r\n\r\n', 400],
    [
      'two lengths',
      'POST /api/v1/chunks HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n',
      400,
    ],
    [
      'a length and pieces',
      'POST /api/v1/chunks HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n',
      400,
    ],
  ])('%s is refused', async (_what, text, status) => {
    await serve();
    const { socket, until } = dial();
    socket.write(text);
    expect(await until(`HTTP/1.1 ${status} `)).toBeTruthy();
  });

  it.each([
    '/../admin.token',
    '/chunks/../../admin.token',
    '/metadata/../../keys/timestamp.pem',
    '/metadata/%2e%2e/%2e%2e/admin.token',
    '//admin.token',
    '/metadata\\..\\..\\admin.token',
    'http://origin/../admin.token',
  ])('%s gets 404', async path => {
    await serve();
    const { socket, until } = dial();
    socket.write(`GET ${path} HTTP/1.1\r\nhost: origin\r\n\r\n`);
    expect(await until('\r\n\r\n')).toMatch(/^HTTP\/1\.1 40[04] /);
  });
});

describe('closing', () => {
  it('waits for running requests, accepts no new ones, and does not wait for idle connections', async () => {
    await serve();
    const idle = dial();
    idle.socket.write('GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n');
    await idle.until('"ok"');
    const batch = batchOf(randomChunks(1));
    const busy = dial();
    busy.socket.write(head('POST', '/api/v1/chunks', { 'content-length': batch.length }));
    busy.socket.write(batch.subarray(0, 10));
    await new Promise(resolve => setTimeout(resolve, 30));
    const closed = server.close(30_000);
    await idle.ended;
    await expect(fetch(`${server.url}/healthz`)).rejects.toThrow('fetch failed');
    busy.socket.write(batch.subarray(10));
    expect(await busy.until('"stored":1')).toContain('HTTP/1.1 200 ');
    await closed;
  });

  it('waits no longer than its limit', async () => {
    await serve();
    const { socket, ended, received } = dial();
    socket.write(head('POST', '/api/v1/chunks', { 'content-length': 1000 }));
    await new Promise(resolve => setTimeout(resolve, 30));
    await server.close(50);
    await ended;
    expect(received()).toBe('');
  });
});

const hasOpenssl = (() => {
  try {
    execFileSync('openssl', ['version']);
    return true;
  } catch {
    return false;
  }
})();

describe.skipIf(!hasOpenssl)(
  `TLS${hasOpenssl ? '' : ' (skipped: there is no openssl to make a certificate)'}`,
  () => {
    function certificate(name: string): { cert: Buffer; key: Buffer } {
      const [key, cert] = [join(directory.path, 'key.pem'), join(directory.path, 'cert.pem')];
      const subject = ['-subj', `/CN=${name}`, '-days', '2', '-nodes', '-newkey', 'rsa:2048'];
      execFileSync('openssl', ['req', '-x509', '-keyout', key, '-out', cert, ...subject], {
        stdio: 'ignore',
      });
      return { cert: readFileSync(cert), key: readFileSync(key) };
    }

    const issuer = () =>
      new Promise<string>((resolve, reject) => {
        const agent = new https.Agent({ keepAlive: false });
        https
          .get(`${server.url}/healthz`, { rejectUnauthorized: false, agent }, response => {
            const { socket } = response;
            const found = socket instanceof TLSSocket ? socket.getPeerCertificate().subject : undefined;
            response.resume().on('end', () => resolve(JSON.stringify(found)));
          })
          .on('error', reject);
      });

    it('is spoken, and a renewed certificate is used without a restart', async () => {
      await serve();
      await server.close(0);
      server = await listen(origin.app, { host: '127.0.0.1', port: 0, tls: certificate('first') });
      expect(server.url).toMatch(/^https:/);
      expect(await issuer()).toContain('first');
      server.renewTls(certificate('second'));
      expect(await issuer()).toContain('second');
    });
  },
);
