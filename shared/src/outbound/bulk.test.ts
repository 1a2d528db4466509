import { once } from 'node:events';
import * as http from 'node:http';
import * as https from 'node:https';
import { createServer, type Server, type Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { NotPlain } from './bulk-connection.ts';
import { BulkPool } from './bulk-pool.ts';
import { Connections } from './connections.ts';
import { HttpClient, type HttpRequest } from './http-client.ts';
import { SELF_SIGNED } from './testing/index.ts';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { tmpdir } from 'node:os';

const MAX_BYTES = 4 * 1024 * 1024;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp();
});

async function listening(server: Server): Promise<URL> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanUps.push(() => server.close());
  const address = server.address();
  return new URL(`http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}/`);
}

/** A server that answers the nth request of a connection as it is told, and counts its connections. */
async function answering(answer: (socket: Socket, count: number) => void) {
  const sockets = new Set<Socket>();
  const server = createServer(socket => {
    sockets.add(socket);
    let count = 0;
    let head = '';
    socket.on('error', () => {});
    socket.on('data', bytes => {
      head += bytes.toString('latin1');
      for (let end = head.indexOf('\r\n\r\n'); end >= 0; end = head.indexOf('\r\n\r\n')) {
        head = head.slice(end + 4);
        answer(socket, (count += 1));
      }
    });
  });
  const url = await listening(server);
  cleanUps.push(() => {
    for (const socket of sockets) socket.destroy();
  });
  return { url, sockets };
}

function poolOf(maxSockets = 2): BulkPool {
  const pool = new BulkPool({ maxSockets, trusted: undefined });
  cleanUps.push(() => pool.close());
  return pool;
}

const textOf = (pool: BulkPool, url: URL, options: Partial<Parameters<BulkPool['get']>[1]> = {}) =>
  pool.get(
    url,
    { maxBytes: MAX_BYTES, ...options },
    async ({ status, body }) => `${status} ${String(await body)}`,
  );

const plain = (text: string, status = '200 OK'): string =>
  `HTTP/1.1 ${status}\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;

describe('a connection', () => {
  it('is used for one request after the other, however the answers are cut', async () => {
    const { url, sockets } = await answering((socket, count) => {
      const bytes = Buffer.from(plain(`answer ${count}`));
      void (async () => {
        for (let at = 0; at < bytes.length; at += count) {
          socket.write(bytes.subarray(at, at + count));
          await turn();
        }
      })();
    });
    const pool = poolOf();
    for (let count = 1; count <= 5; count += 1) expect(await textOf(pool, url)).toBe(`200 answer ${count}`);
    expect(sockets.size).toBe(1);
  });

  it('gives the texts of errors, and can be used again after them', async () => {
    const { url, sockets } = await answering((socket, count) =>
      socket.write(plain('none', count === 1 ? '404 Not Found' : '503')),
    );
    const pool = poolOf();
    expect(await textOf(pool, url)).toBe('404 none');
    expect(await textOf(pool, url)).toBe('503 none');
    expect(sockets.size).toBe(1);
  });

  it('is closed after an answer that says so', async () => {
    const { url, sockets } = await answering(socket =>
      socket.write('HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n'),
    );
    const pool = poolOf();
    expect(await textOf(pool, url)).toBe('200 ');
    expect(await textOf(pool, url)).toBe('200 ');
    expect(sockets.size).toBe(2);
  });

  it('that the server has closed meanwhile is replaced', async () => {
    const { url, sockets } = await answering((socket, count) => {
      if (count === 2) socket.destroy();
      else socket.write(plain('first'));
    });
    const pool = poolOf();
    expect(await textOf(pool, url)).toBe('200 first');
    expect(await textOf(pool, url)).toBe('200 first');
    expect(sockets.size).toBe(2);
  });
});

describe('a pool', () => {
  it('has at most its bound of connections, and the others wait', async () => {
    const waiting: Socket[] = [];
    const { url, sockets } = await answering(socket => void waiting.push(socket));
    const pool = poolOf(2);
    const answers = Promise.all(Array.from({ length: 6 }, () => textOf(pool, url)));
    for (let answered = 0; answered < 6; answered += 2) {
      await expect.poll(() => waiting.length).toBe(2);
      for (const socket of waiting.splice(0)) socket.write(plain('x'));
    }
    expect(await answers).toEqual(Array.from({ length: 6 }, () => '200 x'));
    expect(sockets.size).toBe(2);
  });

  it('ends a request that is called off, also while it waits', async () => {
    const { url, sockets } = await answering(() => {});
    const pool = poolOf(1);
    const stop = new AbortController();
    const asked = [textOf(pool, url, { signal: stop.signal }), textOf(pool, url, { signal: stop.signal })];
    await expect.poll(() => sockets.size).toBe(1);
    stop.abort(new Error('enough'));
    for (const answer of await Promise.allSettled(asked))
      expect(answer).toMatchObject({ status: 'rejected', reason: { message: 'enough' } });
  });

  it.each([
    ['is silent', { silenceMs: 50 }, /nothing came for 50 ms/],
    ['takes too long', { deadlineMs: 50 }, /not done in 50 ms/],
  ])('gives up on a server that %s', async (_, options, message) => {
    const { url } = await answering(socket => socket.write('HTTP/1.1 200 OK\r\n'));
    await expect(textOf(poolOf(), url, options)).rejects.toThrow(message);
  });

  it('fails where an answer ends early', async () => {
    const { url } = await answering(socket =>
      socket.end('HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort'),
    );
    await expect(textOf(poolOf(), url)).rejects.toMatchObject({ code: 'ECONNRESET' });
  });

  it.each([
    ['chunks', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n'],
    ['no length', 'HTTP/1.1 200 OK\r\n\r\nx'],
    ['two lengths', 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx'],
    ['a length that is none', 'HTTP/1.1 200 OK\r\ncontent-length: 0x1\r\n\r\nx'],
    ['a length and chunks', 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\nx'],
    ['too many bytes announced', `HTTP/1.1 200 OK\r\ncontent-length: ${MAX_BYTES + 1}\r\n\r\n`],
    ['a long error', 'HTTP/1.1 500 X\r\ncontent-length: 65537\r\n\r\n'],
    ['an old version', 'HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx'],
    ['an interim answer', 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx'],
    ['no body by its status', 'HTTP/1.1 304 X\r\ncontent-length: 1\r\n\r\n'],
    ['a folded header', 'HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 1\r\n\r\nx'],
    ['a line of blanks', `HTTP/1.1 200 OK\r\na:${' '.repeat(15_000)}\n\r\ncontent-length: 1\r\n\r\nx`],
    ['a head without end', `HTTP/1.1 200 OK\r\n${`a: ${'b'.repeat(1000)}\r\n`.repeat(17)}`],
    ['no HTTP', 'SSH-2.0-x\r\n\r\n'],
  ])('reads nothing but one plain form: not %s', async (_, text) => {
    const { url } = await answering(socket => socket.write(text));
    await expect(textOf(poolOf(), url)).rejects.toBeInstanceOf(NotPlain);
  });

  it('takes no answer with more bytes than it announces, and does not ask for it again', async () => {
    const { url, sockets } = await answering(socket =>
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxy'),
    );
    await expect(textOf(poolOf(), url)).rejects.toThrow('more bytes came than the answer has');
    expect(sockets.size).toBe(1);
  });

  it('sends no header that would be two', async () => {
    const { url, sockets } = await answering(() => {});
    await expect(textOf(poolOf(), url, { headers: { a: 'b\r\nc: d' } })).rejects.toBeInstanceOf(NotPlain);
    expect(sockets.size).toBe(0);
  });

  it('reads bodies larger than its buffer, many side by side', async () => {
    const body = Buffer.alloc(3 * 1024 * 1024, 'large ');
    const server = http.createServer((_, response) => response.end(body));
    const url = await listening(server);
    cleanUps.push(() => server.closeAllConnections());
    const pool = poolOf(4);
    const read = () => pool.get(url, { maxBytes: MAX_BYTES }, ({ body: sent }) => sent);
    const bodies = await Promise.all(Array.from({ length: 8 }, read));
    expect(bodies.every(sent => sent.equals(body))).toBe(true);
  });
});

describe('the HTTP client', () => {
  const clientOf = (url: URL, connections?: Connections): HttpClient => {
    const client = new HttpClient(url.href, {
      maxSockets: 2,
      code: 'SITECAST_STORE_UNREACHABLE',
      connections,
    });
    cleanUps.push(() => client.close());
    return client;
  };
  const ask = (client: HttpClient, paid: Pick<HttpRequest, 'isPaid' | 'onDropped'> = {}) =>
    client.exchange('', { bulkBytes: MAX_BYTES, ...paid }, async ({ status, body }) => {
      const pieces: Buffer[] = [];
      for await (const piece of body) pieces.push(piece);
      return `${status} ${String(Buffer.concat(pieces))} in ${pieces.length}`;
    });
  const CHUNKED = 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n';

  it('reads by node:http until an answer has a length', async () => {
    const { url, sockets } = await answering((socket, count) =>
      socket.write(count <= 2 ? CHUNKED : plain('abc')),
    );
    const client = clientOf(url);
    for (let count = 1; count <= 2; count += 1) expect(await ask(client)).toMatch(/^200 abc/);
    expect(await ask(client)).toBe('200 abc in 1');
    expect(sockets.size).toBe(1);
    // From here on over a connection that is read in ticks. Its first two answers are chunked again: node:http reads on where it was.
    expect(await ask(client)).toBe('200 abc in 1');
    expect(sockets.size).toBe(2);
  });

  it('does not ask again where that costs something, and tells what came in vain', async () => {
    let connections = 0;
    const { url, sockets } = await answering((socket, count) => {
      if (count === 1) connections += 1;
      socket.write(connections === 1 ? plain('abc') : CHUNKED);
    });
    const client = clientOf(url);
    expect(await ask(client)).toBe('200 abc in 1');
    const dropped: number[] = [];
    const paid = { isPaid: true, onDropped: (lengthBytes: number) => void dropped.push(lengthBytes) };
    await expect(ask(client, paid)).rejects.toMatchObject({ code: 'SITECAST_STORE_UNREACHABLE' });
    expect(dropped).toEqual([CHUNKED.length]);
    expect(sockets.size).toBe(2);
  });

  it('reads over TLS as well, and judges certificates as ever', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'sitecast-bulk-'));
    cleanUps.push(() => rm(directory, { recursive: true }));
    const ca = join(directory, 'ca.pem');
    await writeFile(ca, SELF_SIGNED.cert);
    const body = Buffer.alloc(1024 * 1024, 'over TLS ');
    const server = https.createServer(SELF_SIGNED, (_, response) => response.end(body));
    const { port } = await listening(server);
    cleanUps.push(() => server.closeAllConnections());
    const url = new URL(`https://localhost:${port}/`);
    const trusting = clientOf(url, await Connections.open({ ca, variables: {} }));
    for (let count = 0; count < 3; count += 1) expect(await ask(trusting)).toMatch(/^200 (?:over TLS )+/);
    await expect(ask(clientOf(url))).rejects.toMatchObject({ code: 'SITECAST_TLS_SELF_SIGNED' });
  });

  it('explains why nobody answers as ever', async () => {
    const server = createServer();
    const url = await listening(server);
    server.close();
    await once(server, 'close');
    await expect(ask(clientOf(url))).rejects.toMatchObject({
      code: 'SITECAST_STORE_UNREACHABLE',
      data: { reason: 'ECONNREFUSED' },
    });
  });
});
