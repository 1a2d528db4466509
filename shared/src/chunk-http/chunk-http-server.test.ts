import { Agent, type IncomingHttpHeaders, request as httpRequest } from 'node:http';
import { connect, type Socket } from 'node:net';
import { afterEach, expect, it } from 'vitest';
import { Pacer } from '../bounded/index.ts';
import { Chunk, chunkIdOf, chunkPath } from '../content/index.ts';
import { until } from '../testing/index.ts';
import { ChunkHttpServer, type ChunkHttpServerOptions } from './chunk-http-server.ts';
import { prove } from './proof.ts';

const PLAIN = Buffer.alloc(100_000, 'a chunk');
const PATH = `/chunks/${chunkPath(chunkIdOf(PLAIN))}`;
const BYTES_PER_S = 1000;
/** How long one whole chunk takes at that rate. */
const CHUNK_MS = 101_000;

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function served(options: Partial<ChunkHttpServerOptions> = {}) {
  const counts = { read: 0, servedBytes: 0 };
  const server = await ChunkHttpServer.listen(
    {
      self: 'server',
      store: {
        name: 'store',
        has: async () => true,
        get: async id => {
          counts.read += 1;
          return Chunk.fromPlain(id, PLAIN);
        },
      },
      mayServe: () => true,
      onServed: (_, bytes) => (counts.servedBytes += bytes),
      ...options,
    },
    [{ host: '127.0.0.1', port: 0 }],
  );
  cleanUps.push(() => server.close());
  return { server, counts };
}

interface Answered {
  status: number;
  headers: IncomingHttpHeaders;
  bytes: number;
  fromPort: number | undefined;
}

/** A peer with a session, that connects from an address of its own. */
async function peerOf(
  server: ChunkHttpServer,
  { name, localAddress }: { name: string; localAddress: string },
) {
  const secret = await server.openSession(name, new Uint8Array(0));
  if (!secret) throw new Error('no session');
  let counter = 0;
  const agent = new Agent({ keepAlive: true });
  cleanUps.push(() => agent.destroy());
  return (method = 'GET', headers: Record<string, string> = {}) => {
    counter += 1;
    const authorization = prove(secret, { method, path: PATH, counter, server: 'server' });
    const asked = httpRequest({
      host: '127.0.0.1',
      port: server.port,
      path: PATH,
      method,
      agent,
      localAddress,
      headers: { authorization, ...headers },
    });
    const answered = new Promise<Answered>((resolve, reject) => {
      asked.on('error', reject).on('response', answer => {
        let bytes = 0;
        answer.on('data', (piece: Buffer) => (bytes += piece.length)).on('error', reject);
        answer.on('end', () => {
          const { statusCode: status = 0, headers } = answer;
          resolve({ status, headers, bytes, fromPort: asked.socket?.localPort });
        });
      });
    });
    asked.end();
    return { answered, giveUp: () => asked.destroy() };
  };
}

const HONEST = { name: 'honest', localAddress: '127.0.1.1' };
const GREEDY = { name: 'greedy', localAddress: '127.0.1.2' };

it('counts only sent bytes in its upload: no HEAD, nothing that the requester has cached, and of a range only its bytes', async () => {
  const pace = new Pacer(BYTES_PER_S, { burstMs: 0 });
  const { server, counts } = await served({ pace });
  const ask = await peerOf(server, HONEST);
  const heads = await Promise.all(Array.from({ length: 12 }, () => ask('HEAD').answered));
  expect(heads.map(({ status }) => status)).toEqual(heads.map(() => 200));
  const known = { 'if-none-match': heads[0]?.headers.etag ?? '' };
  expect((await ask('GET', known).answered).status).toBe(304);
  expect(pace.leftMs).toBe(0);
  expect(await ask('GET', { range: 'bytes=0-9' }).answered).toMatchObject({ status: 206, bytes: 10 });
  expect(pace.leftMs).toBeLessThanOrEqual(10);
  expect(counts.servedBytes).toBe(10);
});

it('counts nothing for a request that is given up before its turn', async () => {
  const pace = new Pacer(BYTES_PER_S, { burstMs: 0 });
  const { server, counts } = await served({ pace });
  const [honest, greedy] = [await peerOf(server, HONEST), await peerOf(server, GREEDY)];
  expect((await honest().answered).status).toBe(200);
  const all = Array.from({ length: 12 }, () => greedy());
  const outcomes = Promise.allSettled(all.map(({ answered }) => answered));
  await until('all are read, and wait', () => counts.read === 13);
  for (const { giveUp } of all) giveUp();
  await outcomes;
  expect(pace.leftMs).toBeLessThanOrEqual(CHUNK_MS);
});

it('reads nothing for a request that is given up before its turn', async () => {
  const begun: (() => void)[] = [];
  const { server } = await served({
    store: {
      name: 'a slow disk',
      has: async () => true,
      get: async id => {
        await new Promise<void>(resolve => begun.push(resolve));
        return Chunk.fromPlain(id, PLAIN);
      },
    },
  });
  const [honest, greedy] = [await peerOf(server, HONEST), await peerOf(server, GREEDY)];
  const running = Array.from({ length: 8 }, () => greedy().answered);
  await until('as many are read as may be', () => begun.length === 8);
  const { answered, giveUp } = honest();
  const outcome = Promise.allSettled([answered]);
  const last = greedy();
  await until('two more wait', () => server.waiting === 2);
  giveUp();
  await outcome;
  await until('one of them has left', () => server.waiting === 1);
  for (const resolve of begun.splice(0)) resolve();
  await Promise.all(running);
  await until('the other has its turn', () => begun.length > 0);
  begun[0]?.();
  expect((await last.answered).status).toBe(200);
  expect(begun.length).toBe(1);
});

it('serves peers in turn: a request for one chunk does not wait for all chunks of another peer', async () => {
  const pace = new Pacer(PLAIN.length * 8, { burstMs: 0 });
  const { server, counts } = await served({ pace });
  const [honest, greedy] = [await peerOf(server, HONEST), await peerOf(server, GREEDY)];
  let greedyDone = 0;
  const all = Array.from({ length: 12 }, () => greedy().answered.then(() => (greedyDone += 1)));
  await until('all are read, and wait', () => counts.read === 12);
  const before = greedyDone;
  expect((await honest().answered).status).toBe(200);
  expect(greedyDone - before).toBeLessThan(8);
  await Promise.all(all);
});

it('keeps the connections of peers, however many strangers connect', async () => {
  const { server } = await served();
  const ask = await peerOf(server, HONEST);
  const { fromPort } = await ask().answered;
  const strangers: Socket[] = [];
  cleanUps.push(() => strangers.forEach(each => each.destroy()));
  for (let at = 0; at < 300; at += 1) {
    const localAddress = `127.0.${2 + Math.floor(at / 100)}.${1 + (at % 100)}`;
    strangers.push(connect({ host: '127.0.0.1', port: server.port, localAddress }).on('error', () => {}));
  }
  await until('strangers have lost their places', () => server.dropped >= 44);
  expect(await ask().answered).toMatchObject({ status: 200, fromPort });
  expect(server.dropped).toBe(44);
});

it('bounds the connections of a peer: one more ends its oldest', async () => {
  const { server } = await served();
  const [honest, greedy] = [await peerOf(server, HONEST), await peerOf(server, GREEDY)];
  const { fromPort } = await honest().answered;
  const outcomes = await Promise.allSettled(Array.from({ length: 24 }, () => greedy().answered));
  expect(server.dropped).toBe(8);
  expect(outcomes.some(({ status }) => status === 'fulfilled')).toBe(true);
  expect(await honest().answered).toMatchObject({ status: 200, fromPort });
});

it('ends a peer’s connection when its session has ended', async () => {
  const { server } = await served();
  const ask = await peerOf(server, HONEST);
  expect((await ask().answered).headers.connection).toBe('keep-alive');
  server.sessions.drop('honest');
  const { status, headers } = await ask().answered;
  expect([status, headers.connection]).toEqual([401, 'close']);
});
