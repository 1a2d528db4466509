import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { connect } from 'node:net';
import { afterEach, expect, it } from 'vitest';
import { noise } from '../content/fixtures.ts';
import { problemResponse, toSitecastError } from '../http-problem/index.ts';
import { portOf } from '../outbound/testing/index.ts';
import { until } from '../testing/index.ts';
import { type ChunkRouteDeps, chunkRoute, type FramePieces, type Requester } from './chunk-route.ts';

const ID = 'ab'.repeat(32);
const PATH = `/chunks/${ID.slice(0, 4)}/${ID}.cacnk`;

let server: Server;
afterEach(async () => {
  server.closeAllConnections();
  server.close();
  await once(server, 'close');
});

/** Serves one frame. Each connection counts as another requester. @returns the port */
async function serve(frame: FramePieces, options: Partial<ChunkRouteDeps<Requester>> = {}): Promise<number> {
  const route = chunkRoute({
    find: () => frame,
    onAnswer: () => {},
    asError: thrown => toSitecastError(thrown, 'device'),
    asResponse: error => problemResponse(error),
    maxMemoryBytes: 2 ** 24,
    ...options,
  });
  server = createServer((request, response) => {
    route(request, response, { owner: String(request.socket.remotePort) });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return portOf(server);
}

it('sends the part of a frame that is asked for, wherever its pieces begin', async () => {
  const pieces = [3, 10, 1, 6].map((lengthBytes, at) => noise(lengthBytes, at));
  const whole = Buffer.concat(pieces);
  const port = await serve(pieces);
  for (let start = 0; start < whole.length; start += 1)
    for (let end = start; end < whole.length; end += 1) {
      const answer = await fetch(`http://127.0.0.1:${port}${PATH}`, {
        headers: { range: `bytes=${start}-${end}` },
      });
      expect(answer.headers.get('content-range')).toBe(`bytes ${start}-${end}/${whole.length}`);
      expect(Buffer.from(await answer.arrayBuffer())).toEqual(whole.subarray(start, end + 1));
    }
});

it('counts a part as the whole frame, which stays in memory while a part is sent', async () => {
  const frame = noise(100_000, 1);
  let waiting = 0;
  const port = await serve([frame], {
    pace: () => {
      waiting += 1;
      return new Promise(() => {});
    },
    maxMemoryBytes: 4 * frame.length,
  });
  let ended = 0;
  for (let asked = 1; asked <= 8; asked += 1) {
    const socket = connect(port, '127.0.0.1').resume();
    socket.on('error', () => {}).on('close', () => (ended += 1));
    socket.write(`GET ${PATH} HTTP/1.1\r\nhost: x\r\nrange: bytes=0-9\r\n\r\n`);
    await until('it waits for its turn', () => waiting === asked);
    await until('the oldest has made room', () => ended >= asked - 4);
    expect(ended).toBe(Math.max(0, asked - 4));
  }
});
