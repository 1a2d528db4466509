import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { limitConnections, oneAtATime, senderOf } from './index.ts';

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

it('begins with a pipelined request when the answer before it has gone out, and knows its socket then', async () => {
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

it('cuts off whoever sends requests without waiting for answers', async () => {
  let begun = 0;
  const port = await listen(createServer(oneAtATime(() => (begun += 1))));
  const socket = await connected(port);
  socket.write(Array.from({ length: 50 }, (_, at) => get(`/${at}`)).join(''));
  await once(socket, 'close');
  expect(begun).toBe(1);
});

it('takes many requests one after the other on one connection', async () => {
  const port = await listen(createServer(oneAtATime((_, response) => response.end('x'.repeat(100_000)))));
  for (let at = 0; at < 50; at += 1) {
    const response = await fetch(`http://127.0.0.1:${port}/${at}`);
    expect((await response.text()).length).toBe(100_000);
  }
});

it('gives an address so many connections and no more, and takes new ones when some have ended', async () => {
  const made = createServer((_, response) => response.end());
  // The tests have loopback alone: its connections are made out to be another's.
  made.on('connection', (socket: Socket) =>
    Object.defineProperty(socket, 'remoteAddress', { value: '192.0.2.7' }),
  );
  const held = limitConnections(made, 3);
  const port = await listen(made);
  const three = [await connected(port), await connected(port), await connected(port)];
  const fourth = await connected(port);
  await once(fourth, 'close');
  expect(held('192.0.2.7')).toBe(3);
  three[0]?.destroy();
  await expect.poll(() => held('192.0.2.7')).toBe(2);
  const fifth = await connected(port);
  await sleep(50);
  expect(fifth.destroyed).toBe(false);
});

it.each([
  ['192.0.2.7', '192.0.2.7'],
  ['::ffff:192.0.2.7', '192.0.2.7'],
  ['127.0.0.1', undefined],
  ['::1', undefined],
  ['2001:db8:1:2:3:4:5:6', '2001:0db8:0001:0002'],
  ['2001:db8::5', '2001:0db8:0000:0000'],
  ['fe80::1%eth0', 'fe80:0000:0000:0000'],
])('%s stands for %s', (address, sender) => {
  expect(senderOf(address)).toBe(sender);
});
