import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { connect } from 'node:net';
import { Chunk, type ChunkId } from '@sitecast/shared/content';
import { afterEach, expect, it } from 'vitest';
import { chunkHandler } from './chunk-handler.ts';

const MIB = 1024 * 1024;
const ID = 'ab'.repeat(32);
const PATH = `/chunks/${ID.slice(0, 4)}/${ID}.cacnk`;
const silent = { debug() {}, info() {}, warn() {}, error() {} };

let server: Server;
afterEach(async () => {
  server.closeAllConnections();
  server.close();
  await once(server, 'close');
});

it('answers a client while any number of others request frames and never read them', async () => {
  const frame = Buffer.alloc(16 * MIB, 'x');
  const store = {
    name: 'memory',
    has: async () => true,
    get: async (id: ChunkId) => Chunk.fromFrame(id, frame),
  };
  const answered: number[] = [];
  const handle = chunkHandler({
    chunks: {
      isAllowed: () => true,
      atOnce: () => frame,
      here: store,
      forDevices: store,
      forGateways: store,
    },
    onAnswer: status => answered.push(status),
    log: silent,
    maxMemoryBytes: 4 * frame.length,
  });
  server = createServer((request, response) => {
    handle(request, response, { owner: request.socket.remoteAddress ?? '' });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('it does not listen on a port');
  const sockets = Array.from({ length: 8 }, () => connect(address.port, '127.0.0.1').pause());
  for (const socket of sockets) socket.on('error', () => {}).write(`GET ${PATH} HTTP/1.1\r\nhost: x\r\n\r\n`);
  await expect.poll(() => answered.length, { timeout: 60_000 }).toBe(sockets.length);
  const answer = await fetch(`http://127.0.0.1:${address.port}${PATH}`);
  expect((await answer.arrayBuffer()).byteLength).toBe(frame.length);
  for (const socket of sockets) socket.destroy();
});
