import { randomBytes } from 'node:crypto';
import { createServer, type RequestListener, type Server } from 'node:http';
import { peerIdFromString } from '@libp2p/peer-id';
import { afterEach, describe, expect, it } from 'vitest';
import { HttpClient, readBounded } from '../../outbound/index.ts';
import type { SwarmNode } from '../node.ts';
import { connect, Nodes, until } from '../testing/nodes.ts';
import { connectionsToPeer, HTTP_PROTOCOL, peerOf, serveHttpStreams, urlOfPeer } from './http-streams.ts';

const MIB = 1024 * 1024;
const nodes = new Nodes();
const servers: Server[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) server.closeAllConnections();
  await nodes.close();
});

async function served(listener: RequestListener, timeouts: { headersTimeout?: number } = {}) {
  const [there, here] = [await nodes.fleet(), await nodes.fleet()];
  const server = createServer({ connectionsCheckingInterval: 100, ...timeouts }, listener);
  servers.push(server);
  await serveHttpStreams(there, server);
  const id = await connect(here, there);
  return { there, here, id, client: clientFor(here, id), bounded: clientFor(here, id, { maxSockets: 16 }) };
}

function clientFor(node: SwarmNode, id: string, bound: { maxSockets?: number } = {}): HttpClient {
  return new HttpClient(urlOfPeer(id), {
    connections: connectionsToPeer(node, id),
    code: 'SITECAST_UPSTREAM_UNREACHABLE',
    ...bound,
  });
}

const bodyOf = (client: HttpClient, path: string, request = {}) =>
  client.exchange(path, request, async ({ body }) => readBounded(body, 64 * MIB));

/** Streams of HTTP that a node has open with a peer. */
function openStreams(node: SwarmNode, id: string): number {
  const connections = node.libp2p.getConnections(peerIdFromString(id));
  return connections.flatMap(({ streams }) => streams).filter(({ protocol }) => protocol === HTTP_PROTOCOL)
    .length;
}

describe('HTTP over libp2p streams', () => {
  it('carries long bodies both ways, and tells the server which peer asks', async () => {
    const bytes = randomBytes(8 * MIB);
    const { client, here } = await served((request, response) => {
      if (request.method === 'GET') {
        response.setHeader('peer', peerOf(request.socket) ?? '');
        response.end(bytes);
        return;
      }
      let lengthBytes = 0;
      request.on('data', piece => (lengthBytes += piece.length));
      request.on('end', () => response.end(String(lengthBytes)));
    });
    const { peer, body } = await client.exchange('/', {}, async answer => ({
      peer: answer.headers.peer,
      body: await readBounded(answer.body, 64 * MIB),
    }));
    expect(peer).toBe(here.id);
    expect(body?.equals(bytes)).toBe(true);
    const posted = await bodyOf(client, '/', { method: 'POST', body: randomBytes(3 * MIB) });
    expect(String(posted)).toBe(String(3 * MIB));
  });

  it('keeps a stream for the next request, and opens a few at one time, however many requests there are', async () => {
    const sockets = new Set<unknown>();
    let most = 0;
    const { client, here, id, bounded } = await served((request, response) => {
      sockets.add(request.socket);
      most = Math.max(most, openStreams(here, id));
      setTimeout(() => response.end('x'.repeat(100_000)), 5);
    });
    for (let at = 0; at < 10; at += 1) await bodyOf(client, `/${at}`);
    expect(sockets.size).toBe(1);
    const bodies = await Promise.all(Array.from({ length: 60 }, (_, at) => bodyOf(client, `/${at}`)));
    expect(bodies.every(body => body?.length === 100_000)).toBe(true);
    expect(most).toBe(3);
    // Beside a client for chunks files and reports keep their own: a peer has eight altogether.
    const both = Array.from({ length: 60 }, (_, at) => [bodyOf(client, `/${at}`), bodyOf(bounded, `/${at}`)]);
    await Promise.all(both.flat());
    expect(most).toBe(8);
  });

  it('pushes back: a reader that stops stops the writer', async () => {
    let writtenBytes = 0;
    const piece = Buffer.alloc(64 * 1024);
    const { client } = await served((_, response) => {
      const more = (): void => {
        while (writtenBytes < 32 * MIB) {
          writtenBytes += piece.length;
          if (!response.write(piece)) {
            response.once('drain', more);
            return;
          }
        }
        response.end();
      };
      more();
    });
    const [atStop, later, readBytes] = await client.exchange('/', {}, async ({ body }) => {
      const iterator = body[Symbol.asyncIterator]();
      let lengthBytes = (await iterator.next()).value.length;
      await new Promise(resolve => setTimeout(resolve, 500));
      const stopped = writtenBytes;
      await new Promise(resolve => setTimeout(resolve, 300));
      const after = writtenBytes;
      for (let next = await iterator.next(); !next.done; next = await iterator.next())
        lengthBytes += next.value.length;
      return [stopped, after, lengthBytes];
    });
    expect(later).toBe(atStop);
    expect(atStop).toBeLessThan(6 * MIB);
    expect(readBytes).toBe(32 * MIB);
  });

  it('tells the server when a client gives up, and leaves no stream open', async () => {
    let closed = 0;
    const { client, here, id } = await served((_, response) => {
      response.on('close', () => (closed += 1));
      response.write('x');
    });
    const stop = new AbortController();
    const asking = bodyOf(client, '/', { signal: stop.signal });
    await until(() => openStreams(here, id) === 1, 'it asks');
    setTimeout(() => stop.abort(new Error('enough')), 100);
    await expect(asking).rejects.toThrow('enough');
    await until(() => closed === 1 && openStreams(here, id) === 0, 'the stream has ended');
  });

  it('ends streams that send no whole head, and what is no HTTP', async () => {
    const { here, id } = await served((_, response) => response.end(), { headersTimeout: 300 });
    const [connection] = here.libp2p.getConnections(peerIdFromString(id));
    for (const text of ['GET / HT', '\x16\x03\x01 this is TLS\r\n\r\n', '']) {
      const stream = await connection?.newStream(HTTP_PROTOCOL);
      if (text !== '') stream?.send(Buffer.from(text));
      await until(
        () => stream === undefined || stream.readableEnded || stream.status !== 'open',
        `${text} ends`,
      );
      expect(openStreams(here, id)).toBeLessThan(2);
      stream?.abort(new Error('done'));
    }
  });

  it('fails at once where the peer does not speak it, and where the connection is lost', async () => {
    const { client, here, there, id } = await served((_, response) => response.write('x'));
    const old = await nodes.fleet();
    const oldId = await connect(here, old);
    const unreachable = expect.objectContaining({ code: 'SITECAST_UPSTREAM_UNREACHABLE' });
    const beganMs = performance.now();
    await expect(bodyOf(clientFor(here, oldId), '/')).rejects.toThrow(unreachable);
    expect(performance.now() - beganMs).toBeLessThan(5000);
    const asking = bodyOf(client, '/').catch((error: unknown) => error);
    await until(() => openStreams(here, id) === 1, 'it asks');
    await there.hangUp(here.id);
    expect(await asking).toEqual(unreachable);
    await expect(bodyOf(client, '/')).rejects.toThrow(unreachable);
  });

  it('gives each peer a few streams: one more is refused, and other peers have theirs', async () => {
    const { there, here, id } = await served((_, response) => response.end('ok'));
    const greedy = await nodes.fleet();
    await connect(greedy, there);
    const [connection] = greedy.libp2p.getConnections(peerIdFromString(id));
    const opened = [];
    for (let at = 0; at < 8; at += 1) opened.push(await connection?.newStream(HTTP_PROTOCOL));
    expect(String(await bodyOf(clientFor(here, id), '/'))).toBe('ok');
    const ninth = await connection?.newStream(HTTP_PROTOCOL).catch(() => undefined);
    await until(() => ninth?.status !== 'open', 'the ninth is refused');
    expect(opened.filter(stream => stream?.status === 'open')).toHaveLength(8);
  });
});
