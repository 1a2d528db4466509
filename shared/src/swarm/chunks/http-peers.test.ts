import { once } from 'node:events';
import { createServer } from 'node:http';
import { connect as connectTcp } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { ChunkHttpServer, type ChunkHttpServerOptions, prove } from '../../chunk-http/index.ts';
import { Chunk, type ChunkId, type ChunkStore, chunkIdToHex, chunkPath } from '../../content/index.ts';
import type { SwarmNode } from '../node.ts';
import { MemoryStore, noiseChunks } from '../testing/memory-store.ts';
import { connect, Nodes, until } from '../testing/nodes.ts';
import { ChunkServer } from './chunk-server.ts';
import { HaveMap } from './holdings.ts';
import { type HttpPeer, HttpPeers } from './http-peers.ts';
import { PeerStore } from './peer-store.ts';
import { askForSession, serveSessions, SESSION_PROTOCOL } from './session-protocol.ts';

/** Two raw blocks; it fits the server's reused memory. */
const CHUNK_BYTES = 200_000;
const SMALL_BYTES = 100_000;
const chunks = noiseChunks(6, CHUNK_BYTES);
const CREDENTIAL = Buffer.from('an assignment');

const nodes = new Nodes();
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
  await nodes.close();
});

const filled = (): MemoryStore => {
  const store = new MemoryStore();
  store.put(...chunks);
  return store;
};

/** A device that serves its chunks both ways, and counts requests. */
class Device {
  readonly node: SwarmNode;
  readonly store = filled();
  served = { http: 0, stream: 0 };
  http: ChunkHttpServer | undefined;
  isAdmitting = true;
  isBusy = false;

  constructor(node: SwarmNode) {
    this.node = node;
  }

  async serve({ isOld = false, overHttp = this.store }: { isOld?: boolean; overHttp?: ChunkStore } = {}) {
    const mayServe = (_: string, credential: Uint8Array) =>
      this.isAdmitting && Buffer.compare(credential, CREDENTIAL) === 0;
    const server = new ChunkServer({
      node: this.node,
      store: this.store,
      haveMap: new HaveMap(),
      mayServe,
      onServed: () => (this.served.stream += 1),
    });
    await server.start();
    if (isOld) return this;
    const options: ChunkHttpServerOptions = {
      self: this.node.id,
      store: overHttp,
      mayServe,
      isBusy: () => this.isBusy,
      onServed: () => (this.served.http += 1),
    };
    await this.listen(options, 0);
    await serveSessions(this.node, {
      port: this.port,
      openSession: (peer, credential) =>
        this.http?.openSession(peer, credential) ?? Promise.reject(new Error('it is closed')),
    });
    this.restart = async () => {
      const { port } = this;
      await this.http?.close();
      await this.listen(options, port);
    };
    return this;
  }

  restart = async (): Promise<void> => {};

  get port(): number {
    return this.http?.port ?? 0;
  }

  async listen(options: ChunkHttpServerOptions, port: number): Promise<void> {
    const http = await ChunkHttpServer.listen(options, [{ host: '127.0.0.1', port }]);
    this.http = http;
    cleanUps.push(() => http.close());
  }
}

const device = async (options: Parameters<Device['serve']>[0] = {}): Promise<Device> =>
  new Device(await nodes.site()).serve(options);

async function asking(
  served: Device,
  credential: Buffer = CREDENTIAL,
  now?: () => number,
): Promise<{ peer: HttpPeer; lies: string[]; rests: string[] }> {
  const node = await nodes.site();
  await connect(node, served.node);
  const lies: string[] = [];
  const rests: string[] = [];
  const store = new PeerStore({
    node,
    peer: served.node.id,
    credential,
    onMisbehaviour: (_, { code }) => lies.push(code),
  });
  const http = new HttpPeers({ node, onRest: (_, { code }) => rests.push(code), ...(now && { now }) });
  const peer = http.peer(store, credential);
  cleanUps.push(() => {
    peer.close();
    store.close();
  });
  return { peer, lies, rests };
}

async function isRight(peer: HttpPeer, at: number): Promise<boolean> {
  const chunk = chunks[at] ?? Chunk.fromPlain(Buffer.alloc(32), Buffer.alloc(1));
  const got = await peer.get(chunk.id, { lengthBytes: CHUNK_BYTES });
  return Buffer.compare(got.plain(), chunk.plain()) === 0;
}

describe('chunks of a peer', () => {
  it('come over plain HTTP, several at a time', async () => {
    const served = await device();
    const { peer } = await asking(served);
    const got = await Promise.all(chunks.map((_, at) => isRight(peer, at)));
    expect(got.every(is => is)).toBe(true);
    expect(served.served).toEqual({ http: chunks.length, stream: 0 });
  });

  it('come over its stream if it is of an earlier release', async () => {
    const served = await device({ isOld: true });
    const { peer } = await asking(served);
    expect(await isRight(peer, 0)).toBe(true);
    expect(await isRight(peer, 1)).toBe(true);
    expect(served.served).toEqual({ http: 0, stream: 2 });
  });

  it('that are altered on the way come over its stream; the address is not asked for a while, and no peer is banned', async () => {
    let nowMs = 0;
    const wrong: ChunkStore = {
      name: 'somebody on the way',
      has: async () => true,
      get: async (id: ChunkId) => Chunk.fromPlain(id, Buffer.alloc(CHUNK_BYTES)),
    };
    const served = await device({ overHttp: wrong });
    const { peer, lies, rests } = await asking(served, CREDENTIAL, () => nowMs);
    for (let at = 0; at < 4; at += 1) expect(await isRight(peer, at)).toBe(true);
    expect(served.served).toEqual({ http: 1, stream: 4 });
    expect(rests).toEqual(['SITECAST_CHUNK_MISMATCH']);
    expect(lies).toEqual([]);
    nowMs += 5 * 60_000 + 1000;
    expect(await isRight(peer, 4)).toBe(true);
    expect(served.served.http).toBe(2);
  });

  it('come over its stream where nothing answers at its HTTP port', async () => {
    const served = await device();
    await served.http?.close();
    served.http = undefined;
    const { peer, rests } = await asking(served);
    expect(await isRight(peer, 0)).toBe(true);
    expect(await isRight(peer, 1)).toBe(true);
    expect(served.served).toEqual({ http: 0, stream: 2 });
    expect(rests.length).toBeLessThanOrEqual(1);
  });

  it('come by a new session when the peer no longer knows the old one', async () => {
    let nowMs = 0;
    const served = await device();
    const { peer, lies } = await asking(served, CREDENTIAL, () => nowMs);
    expect(await isRight(peer, 0)).toBe(true);
    await served.restart();
    nowMs += 20_000;
    expect(await isRight(peer, 1)).toBe(true);
    expect(await isRight(peer, 2)).toBe(true);
    expect(served.served).toEqual({ http: 2, stream: 1 });
    expect(lies).toEqual([]);
  });

  it('are refused both ways to a machine that may not be served', async () => {
    const served = await device();
    const { peer } = await asking(served, Buffer.from('of another site'));
    await expect(isRight(peer, 0)).rejects.toMatchObject({ code: 'SITECAST_STORE_UNREACHABLE' });
    expect(served.served).toEqual({ http: 0, stream: 0 });
  });

  it('that it seems to lack are requested over its stream as well: anyone on the way could have answered so', async () => {
    const served = await device({ overHttp: new MemoryStore() });
    const { peer, rests } = await asking(served);
    expect(await isRight(peer, 0)).toBe(true);
    expect(served.served).toEqual({ http: 0, stream: 1 });
    expect(rests).toEqual([]);
  });

  it.each([401, 404, 500, 503])(
    'that someone on the way refuses with %i, three times in a row, come only over its stream',
    async status => {
      let nowMs = 0;
      let refused = 0;
      const served = await device();
      const { port } = served;
      await served.http?.close();
      const between = createServer((_, response) => {
        refused += 1;
        response.writeHead(status, { 'content-length': 0 }).end();
      }).listen(port, '127.0.0.1');
      await once(between, 'listening');
      cleanUps.push(() => between.close().closeAllConnections());
      const { peer, rests, lies } = await asking(served, CREDENTIAL, () => nowMs);
      for (let at = 0; at < chunks.length; at += 1) {
        nowMs += 61_000;
        expect(await isRight(peer, at)).toBe(true);
      }
      expect([refused, served.served.stream, rests.length]).toEqual([3, chunks.length, 1]);
      expect(lies).toEqual([]);
    },
  );

  it('come over plain HTTP as long as one of three requests succeeds', async () => {
    let asked = 0;
    const store = filled();
    const served = await device({
      overHttp: {
        name: 'flaky',
        has: async () => true,
        get: (id: ChunkId) => ((asked += 1) % 3 === 0 ? store : new MemoryStore()).get(id),
      },
    });
    const { peer, rests } = await asking(served);
    for (let at = 0; at < chunks.length; at += 1) expect(await isRight(peer, at)).toBe(true);
    expect([asked, served.served.http, rests]).toEqual([chunks.length, 2, []]);
  });

  it('are not asked for over HTTP where the answer about a session is wrong', async () => {
    const served = await device({ isOld: true });
    const answers = [
      Buffer.alloc(0),
      Buffer.of(2),
      Buffer.alloc(51, 1),
      Buffer.concat([Buffer.of(1), Buffer.alloc(50)]),
    ];
    for (const answer of answers) {
      await served.node.libp2p.handle(
        SESSION_PROTOCOL,
        stream => {
          const head = Buffer.alloc(4);
          head.writeUInt32BE(answer.length);
          stream.send(Buffer.concat([head, answer]));
        },
        { force: true },
      );
      const { peer, lies } = await asking(served);
      expect(await isRight(peer, 0)).toBe(true);
      expect(lies).toEqual([]);
    }
    expect(served.served).toEqual({ http: 0, stream: answers.length });
  });
});

describe('a device’s HTTP server', () => {
  const PATH = `/chunks/${chunkPath(chunks[0]?.id ?? Buffer.alloc(32))}`;
  const urlOf = ({ port }: Device, path = PATH): string => `http://127.0.0.1:${port}${path}`;

  async function session(served: Device) {
    const node = await nodes.site();
    await connect(node, served.node);
    const opened = await askForSession(node, served.node.id, CREDENTIAL);
    if (!opened) throw new Error('no session');
    let counter = 0;
    return (method = 'GET', path = PATH, extra: Record<string, string> = {}, signal?: AbortSignal) => {
      counter += 1;
      const authorization = prove(opened.secret, { method, path, counter, server: served.node.id });
      return fetch(urlOf(served, path), {
        method,
        headers: { authorization, ...extra },
        ...(signal && { signal }),
      });
    };
  }

  it('answers requests without a session with 401, a few times, and then not at all', async () => {
    const served = await device();
    const ask = () =>
      fetch(urlOf(served)).then(
        ({ status }) => status,
        () => 'disconnected',
      );
    const statuses = await Promise.all(Array.from({ length: 200 }, ask));
    expect(new Set(statuses)).toEqual(new Set([401, 'disconnected']));
    expect(statuses.filter(status => status === 401).length).toBeGreaterThanOrEqual(60);
    expect(served.served.http).toBe(0);
    // Requests with a session are still served, even from the same address.
    const askBySession = await session(served);
    expect((await askBySession()).status).toBe(200);
  });

  it('serves no repeated request', async () => {
    const served = await device();
    const node = await nodes.site();
    await connect(node, served.node);
    const opened = await askForSession(node, served.node.id, CREDENTIAL);
    if (!opened) throw new Error('no session');
    const authorization = prove(opened.secret, {
      method: 'GET',
      path: PATH,
      counter: 1,
      server: served.node.id,
    });
    const read = () => fetch(urlOf(served), { headers: { authorization } }).then(({ status }) => status);
    expect([await read(), await read()]).toEqual([200, 401]);
  });

  it('has the routes of a gateway: HEAD, ranges, conditions, and nothing else', async () => {
    const served = await device();
    const ask = await session(served);
    const whole = await ask();
    const frame = Buffer.from(await whole.arrayBuffer());
    const etag = whole.headers.get('etag') ?? '';
    expect(
      Chunk.fromFrame(chunks[0]?.id ?? Buffer.alloc(32), frame)
        .verify(CHUNK_BYTES)
        .plain(),
    ).toHaveLength(CHUNK_BYTES);
    const head = await ask('HEAD');
    expect([head.status, head.headers.get('content-length')]).toEqual([200, String(frame.length)]);
    const part = await ask('GET', PATH, { range: 'bytes=131070-131090' });
    expect(part.status).toBe(206);
    expect(Buffer.from(await part.arrayBuffer())).toEqual(frame.subarray(131_070, 131_091));
    expect((await ask('GET', PATH, { 'if-none-match': etag })).status).toBe(304);
    const unknown = chunkIdToHex(Buffer.alloc(32, 9));
    expect((await ask('GET', `/chunks/${unknown.slice(0, 4)}/${unknown}.cacnk`)).status).toBe(404);
    expect((await ask('GET', '/metadata/root.json')).status).toBe(404);
    expect((await ask('POST')).status).toBe(404);
  });

  it('sends right bytes, whoever disconnects meanwhile: memory is reused only when it is free', async () => {
    const small = noiseChunks(6, SMALL_BYTES, 'small');
    const plain = new Map(small.map(chunk => [`/chunks/${chunkPath(chunk.id)}`, chunk]));
    const paths = [...plain.keys()];
    // Like a slot, it reads into the memory of the request, in steps.
    const slot: ChunkStore = {
      name: 'slot',
      has: async () => true,
      get: async (id, { into } = {}) => {
        const bytes = small.find(chunk => Buffer.compare(chunk.id, id) === 0)?.plain() ?? Buffer.alloc(0);
        if (!into || into.length < SMALL_BYTES) throw new Error('no memory');
        for (let at = 0; at < bytes.length; at += 30_000) {
          await new Promise(resolve => setTimeout(resolve, 1));
          into.set(bytes.subarray(at, at + 30_000), at);
        }
        return Chunk.fromPlain(Uint8Array.from(id), into.subarray(0, bytes.length)).verify();
      },
    };
    const served = await device({ overHttp: slot });
    const ask = await session(served);
    const read = async (path: string, isCut: boolean): Promise<boolean> => {
      const answer = await ask('GET', path, {}, isCut ? AbortSignal.timeout(3) : undefined).catch(
        () => undefined,
      );
      const frame = await answer?.arrayBuffer().catch(() => undefined);
      if (!frame) return isCut;
      const chunk = plain.get(path);
      const got = Chunk.fromFrame(chunk?.id ?? Buffer.alloc(0), Buffer.from(frame)).verify(SMALL_BYTES);
      return Buffer.compare(got.plain(), chunk?.plain() ?? Buffer.alloc(0)) === 0;
    };
    const all = Array.from({ length: 120 }, (_, at) => read(paths[at % paths.length] ?? '', at % 2 === 1));
    expect((await Promise.all(all)).every(is => is)).toBe(true);
  });

  it('answers that it is busy, and stops serving a revoked peer', async () => {
    const served = await device();
    const ask = await session(served);
    served.isBusy = true;
    expect((await ask()).status).toBe(503);
    served.isBusy = false;
    expect((await ask()).status).toBe(200);
    for (const { id } of served.node.libp2p.getPeers().map(peer => ({ id: peer.toString() })))
      served.http?.sessions.drop(id);
    expect((await ask()).status).toBe(401);
  });

  it('ends connections beyond its bounds, and refuses long heads', async () => {
    const served = await device();
    const socket = connectTcp(served.port, '127.0.0.1');
    await once(socket, 'connect');
    let said = '';
    socket.on('data', bytes => (said += bytes.toString('latin1')));
    socket.write(`GET ${PATH} HTTP/1.1\r\nhost: x\r\na: ${'b'.repeat(5000)}\r\n\r\n`);
    await until(() => said.startsWith('HTTP/1.1 431'), 'the long head is refused');
    socket.destroy();
    // From an address that isn't this machine's own.
    const silent = Array.from({ length: 40 }, () =>
      connectTcp({ port: served.port, host: '127.0.0.1', localAddress: '127.0.0.3' }).on('error', () => {}),
    );
    cleanUps.push(() => silent.forEach(each => each.destroy()));
    const ended = () => silent.filter(({ destroyed }) => destroyed).length;
    await until(() => ended() >= 8, 'those beyond the bound have ended');
    expect(ended()).toBe(8);
  });
});
