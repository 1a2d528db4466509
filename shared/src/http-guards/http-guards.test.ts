import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { connect, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { limitedServer, oneAtATime, SharedConnections } from './index.ts';

let server: Server | undefined;
const sockets: Socket[] = [];
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  server?.closeAllConnections();
  await new Promise<void>(resolve => server?.close(() => resolve()));
});

async function listen(made: Server): Promise<number> {
  server = made;
  made.listen(0, '127.0.0.1');
  await once(made, 'listening');
  const address = made.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

async function connected(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  sockets.push(socket);
  await once(socket, 'connect');
  return socket;
}

const get = (path: string) => `GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`;

it('handles a pipelined request once the answer before it has been sent, and with its socket', async () => {
  const begun: string[] = [];
  const answers: (() => void)[] = [];
  const port = await listen(
    createServer(
      oneAtATime((request, response) => {
        begun.push(`${request.url} ${response.socket === null ? 'without' : 'with'} a socket`);
        answers.push(() => response.end('ok'));
      }),
    ),
  );
  const socket = await connected(port);
  let received = '';
  socket.setEncoding('utf8').on('data', text => (received += text));
  socket.write(get('/1') + get('/2'));
  await expect.poll(() => begun).toEqual(['/1 with a socket']);
  answers[0]?.();
  await expect.poll(() => begun).toEqual(['/1 with a socket', '/2 with a socket']);
  answers[1]?.();
  await expect.poll(() => received.split('HTTP/1.1 200').length).toBe(3);
});

it('closes the connection of a client that sends requests without reading the answers', async () => {
  let begun = 0;
  const port = await listen(createServer(oneAtATime(() => (begun += 1))));
  const socket = await connected(port);
  socket.write(Array.from({ length: 50 }, (_, at) => get(`/${at}`)).join(''));
  await once(socket, 'close');
  expect(begun).toBe(1);
});

it('handles many requests, one after the other, on one connection', async () => {
  const port = await listen(createServer(oneAtATime((_, response) => response.end('x'.repeat(100_000)))));
  for (let at = 0; at < 50; at += 1) {
    const response = await fetch(`http://127.0.0.1:${port}/${at}`);
    expect((await response.text()).length).toBe(100_000);
  }
});

/** Each connection gets the address that was set last: the tests have loopback only. */
async function shared(limits: { max: number; maxPerAddress: number }) {
  const made = createServer((_, response) => response.end('ok'));
  let address = '';
  made.on('connection', (socket: Socket) =>
    Object.defineProperty(socket, 'remoteAddress', { value: address }),
  );
  const state = new SharedConnections(limits);
  state.guard(made);
  const port = await listen(made);
  const from = async (sender: string): Promise<Socket> => {
    const before = state.held + state.dropped;
    address = sender;
    const socket = await connected(port);
    await expect.poll(() => state.held + state.dropped).toBeGreaterThan(before);
    return socket;
  };
  return { from, state };
}

it('accepts a new connection when all are taken: the address with the most connections loses its oldest', async () => {
  const { from, state } = await shared({ max: 6, maxPerAddress: 4 });
  const [oldest] = [await from('192.0.2.1'), await from('192.0.2.1'), await from('192.0.2.1')];
  const others = [await from('192.0.2.2'), await from('192.0.2.2'), await from('192.0.2.3')];
  const newcomer = await from('192.0.2.4');
  await once(oldest, 'close');
  newcomer.write(get('/'));
  await once(newcomer, 'data');
  expect(others.some(({ destroyed }) => destroyed)).toBe(false);
  expect([state.held, state.dropped]).toEqual([6, 1]);
});

it('limits the connections of an address: one more ends its oldest', async () => {
  const { from, state } = await shared({ max: 100, maxPerAddress: 3 });
  const first = await from('2001:db8::1');
  for (const last of [2, 3, 4]) await from(`2001:db8::${last}`);
  await once(first, 'close');
  await expect.poll(() => state.held).toBe(3);
});

describe('a limited server', () => {
  const limits = {
    headMs: 60_000,
    requestMs: 60_000,
    maxHeadBytes: 1024,
    keepAliveMs: 60_000,
    silenceMs: 60_000,
  };
  const answering = (changes: Partial<typeof limits>) =>
    listen(limitedServer({ ...limits, ...changes }, (_, response) => response.end('ok')));

  it('refuses a head over its bound, and takes one below it', async () => {
    const port = await answering({});
    const withHead = (lengthBytes: number) =>
      fetch(`http://127.0.0.1:${port}/`, { headers: { padding: 'x'.repeat(lengthBytes) } });
    expect((await withHead(500)).status).toBe(200);
    expect((await withHead(1024)).status).toBe(431);
  });

  it.each([
    ['a head that does not come to its end', { headMs: 50 }, 'GET / HTTP/1.1\r\n'],
    [
      'a body that does not come to its end',
      { headMs: 50, requestMs: 50 },
      'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1',
    ],
    ['a connection without a request', { keepAliveMs: 50 }, get('/')],
    ['a connection without a byte', { silenceMs: 50 }, ''],
  ])('ends %s', async (_what, changes, sent) => {
    const socket = await connected(await answering(changes));
    socket.resume().write(sent);
    await once(socket, 'close');
    expect(socket.readableEnded).toBe(true);
  });
});
