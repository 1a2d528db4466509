import { setTimeout as sleep } from 'node:timers/promises';
import type { Stream } from '@libp2p/interface';
import { peerIdFromString } from '@libp2p/peer-id';
import { afterEach, describe, expect, it } from 'vitest';
import { Chunk, chunkIdOf, compressFrame, MAX_CHUNK_BYTES, verifying } from '../../content/index.ts';
import { chunkOf, testChunkStore } from '../../content/store/conformance.ts';
import type { SwarmNode } from '../node.ts';
import { MemoryStore, noiseChunks } from '../testing/memory-store.ts';
import { connect, Nodes, until } from '../testing/nodes.ts';
import { ChunkServer, type ChunkServerOptions, MAX_STREAMS_PER_PEER } from './chunk-server.ts';
import { HaveMap, ImageHoldings } from './holdings.ts';
import { MessageStream } from './message-stream.ts';
import { MAX_OUTSTANDING_BYTES, MAX_OUTSTANDING_REQUESTS, PeerStore } from './peer-store.ts';
import { MAX_SUBSCRIBED_IMAGES, MAX_WAITING_REQUESTS } from './served-peer.ts';
import { Pacer } from '../../bounded/index.ts';
import {
  type Answer,
  type Ask,
  CHUNK_PROTOCOL,
  decodeAnswer,
  decodeAsk,
  encodeAnswer,
  encodeAsk,
  MAX_ANSWER_BYTES,
  MAX_ASK_BYTES,
} from './wire.ts';

const nodes = new Nodes();
afterEach(() => nodes.close());

async function served(options: Partial<ChunkServerOptions> = {}) {
  const [requester, server] = [await nodes.site(), await nodes.site()];
  const store = new MemoryStore();
  const haveMap = new HaveMap();
  const chunkServer = new ChunkServer({ node: server, store, haveMap, mayServe: () => true, ...options });
  await chunkServer.start();
  await connect(requester, server);
  const lies: string[] = [];
  const peer = new PeerStore({
    node: requester,
    peer: server.id,
    credential: Buffer.from('assignment'),
    deadlineMs: 3000,
    onMisbehaviour: (_peer, { code }) => lies.push(code),
  });
  return { requester, server, store, haveMap, chunkServer, peer, lies };
}

/** A peer with the given answers. */
async function hostile(answer: (ask: Ask, send: (answer: Answer) => void, stream: Stream) => void) {
  const [requester, server] = [await nodes.site(), await nodes.site()];
  await server.libp2p.handle(CHUNK_PROTOCOL, (stream: Stream) => {
    const messages: MessageStream = new MessageStream(stream, {
      maxMessageBytes: MAX_ASK_BYTES,
      onMessage: message =>
        answer(decodeAsk(message), reply => void messages.send(...encodeAnswer(reply)), stream),
      onEnd: () => {},
    });
  });
  await connect(requester, server);
  const lies: string[] = [];
  const peer = new PeerStore({
    node: requester,
    peer: server.id,
    deadlineMs: 1500,
    onMisbehaviour: (_peer, { code }) => lies.push(code),
  });
  return { peer, lies, server };
}

/** A requester that sends any messages. */
async function rawRequester(requester: SwarmNode, server: SwarmNode) {
  const stream = await requester.libp2p.dialProtocol(peerIdFromString(server.id), CHUNK_PROTOCOL);
  const answers: Answer[] = [];
  const state = { isEnded: false };
  const messages = new MessageStream(stream, {
    maxMessageBytes: MAX_ANSWER_BYTES,
    onMessage: message => answers.push(decodeAnswer(message)),
    onEnd: () => {
      state.isEnded = true;
    },
  });
  const ask = (each: Ask) => messages.send(encodeAsk(each));
  return { stream, answers, state, ask };
}

const hello: Ask = { type: 'hello', credential: Buffer.alloc(0) };
const unreachable = { code: 'SITECAST_STORE_UNREACHABLE' };

describe('a peer as a chunk store', () => {
  testChunkStore(it, async () => {
    const { store, peer } = await served();
    return {
      store: peer,
      fill: async (chunks: readonly Chunk[]) => store.put(...chunks),
      close: async () => peer.close(),
    };
  });

  it('fetches many chunks at a time, as frames or plain, with bounded bytes outstanding', async () => {
    const { peer, store } = await served();
    const chunks = noiseChunks(100, 64 * 1024);
    store.put(...chunks);
    const frame = chunkOf('a chunk that is stored as a frame '.repeat(1000));
    frame.frame();
    store.put(frame);
    const got = await Promise.all(
      [...chunks, frame].map(chunk => peer.get(chunk.id, { lengthBytes: chunk.plain().length })),
    );
    for (const [at, chunk] of [...chunks, frame].entries())
      expect(Buffer.compare(got[at]?.plain() ?? Buffer.alloc(0), chunk.plain())).toBe(0);
    expect(store.given).toHaveLength(101);
  });

  it('continues after a chunk that the peer lacks, which is no misbehaviour', async () => {
    const { peer, store, lies } = await served();
    store.put(chunkOf('here'));
    for (let times = 0; times < 3; times += 1)
      await expect(peer.get(chunkOf('elsewhere').id)).rejects.toMatchObject({
        code: 'SITECAST_CHUNK_NOT_FOUND',
      });
    expect((await peer.get(chunkOf('here').id)).plain()).toHaveLength(4);
    expect(lies).toEqual([]);
  });

  it('cancels requests that are no longer needed', async () => {
    const { peer, store } = await served({ pace: new Pacer(64 * 1024) });
    const chunks = noiseChunks(10, 64 * 1024);
    store.put(...chunks);
    const stop = new AbortController();
    const gets = chunks.map(chunk => peer.get(chunk.id, { lengthBytes: 64 * 1024, signal: stop.signal }));
    const outcomes = Promise.allSettled(gets);
    await gets[0];
    stop.abort(new Error('enough'));
    const failed = (await outcomes).filter(({ status }) => status === 'rejected');
    expect(failed.length).toBeGreaterThan(5);
    await sleep(500);
    expect(store.given.length).toBeLessThan(8);
  });

  it('reaches the peer again after its stream was closed', async () => {
    const { peer, store, chunkServer, requester } = await served();
    store.put(chunkOf('here'));
    await peer.get(chunkOf('here').id);
    chunkServer.drop(requester.id);
    await until(() => chunkServer.streams === 0, 'the stream has ended');
    await sleep(100);
    expect((await peer.get(chunkOf('here').id)).plain()).toHaveLength(4);
  });
});

describe('a peer with a wrong answer', () => {
  const chunk = chunkOf('what was asked for');
  const other = chunkOf('something else');

  it.each<[string, (request: number) => Answer, string]>([
    [
      'the bytes of another chunk',
      request => ({ type: 'plain', request, bytes: other.plain() }),
      'SITECAST_CHUNK_MISMATCH',
    ],
    [
      'what is no frame',
      request => ({ type: 'frame', request, bytes: Buffer.from('zstd?') }),
      'SITECAST_CHUNK_MISMATCH',
    ],
    [
      'a frame that holds too much',
      request => ({ type: 'frame', request, bytes: compressFrame(Buffer.alloc(MAX_CHUNK_BYTES)) }),
      'SITECAST_CHUNK_MISMATCH',
    ],
    [
      'more bytes than the chunk has',
      request => ({ type: 'plain', request, bytes: Buffer.alloc(17 * 1024) }),
      'SITECAST_PEER_PROTOCOL',
    ],
    [
      'an answer to nothing',
      request => ({ type: 'missing', request: request + 1 }),
      'SITECAST_PEER_PROTOCOL',
    ],
    [
      'what it holds of an image that nobody asked about',
      () => ({ type: 'have', image: other.id, isFetching: true, added: [1] }),
      'SITECAST_PEER_PROTOCOL',
    ],
  ])('is reported and never asked again: %s', async (_what, answer, code) => {
    const { peer, lies } = await hostile((ask, send) => {
      if (ask.type === 'get') send(answer(ask.request));
    });
    const lengthBytes = chunk.plain().length;
    await expect(peer.get(chunk.id, { lengthBytes })).rejects.toMatchObject({ code });
    expect(lies).toEqual([code]);
    expect(peer.isUseless).toBe(true);
    await expect(peer.get(chunk.id, { lengthBytes })).rejects.toMatchObject({ code });
  });

  it('is dropped when it announces a message beyond the bound', async () => {
    const { peer, lies } = await hostile((_ask, _send, stream) => {
      const head = Buffer.alloc(4);
      head.writeUInt32BE(MAX_ANSWER_BYTES + 1);
      stream.send(head);
    });
    await expect(peer.get(chunk.id)).rejects.toMatchObject({ code: 'SITECAST_PEER_PROTOCOL' });
    expect(lies).toEqual(['SITECAST_PEER_PROTOCOL']);
  });

  it('is dropped when it announces chunks that the image does not have', async () => {
    const { peer, lies } = await hostile((ask, send) => {
      if (ask.type === 'subscribe')
        send({ type: 'have', image: ask.image, isFetching: true, added: [5, 100] });
    });
    await peer.subscribe(chunk.id, 100, () => {});
    await until(() => lies.length === 1, 'it is noticed');
    expect(lies).toEqual(['SITECAST_PEER_PROTOCOL']);
  });
});

describe('a peer without an answer', () => {
  it('is given up when it hangs, and when it sends a byte at a time', async () => {
    for (const doesTrickle of [false, true]) {
      const { peer, lies } = await hostile((ask, _send, stream) => {
        if (ask.type !== 'get' || !doesTrickle || ask.request > 1) return;
        const [head = Buffer.alloc(0), bytes = Buffer.alloc(0)] = encodeAnswer({
          type: 'plain',
          request: ask.request,
          bytes: Buffer.alloc(1000),
        });
        const length = Buffer.alloc(4);
        length.writeUInt32BE(head.length + bytes.length);
        const all = Buffer.concat([length, head, bytes]);
        let at = 0;
        const timer = setInterval(() => {
          if (at === all.length || stream.writeStatus !== 'writable') clearInterval(timer);
          else stream.send(all.subarray(at, (at += 1)));
        }, 50);
      });
      const all = Array.from({ length: 5 }, () => peer.get(chunkOf('x').id, { lengthBytes: 1000 }));
      for (const outcome of await Promise.allSettled(all))
        expect(outcome).toMatchObject({ reason: unreachable });
      expect(lies).toEqual([]);
    }
  });

  it.each([
    ['in bytes', 112 * 1024, MAX_OUTSTANDING_BYTES / (128 * 1024)],
    ['in number', 1, MAX_OUTSTANDING_REQUESTS],
  ])('gets no more requests than may be outstanding, %s', async (_what, lengthBytes, most) => {
    let asked = 0;
    const { peer } = await hostile(ask => {
      if (ask.type === 'get') asked += 1;
    });
    const all = Array.from({ length: 100 }, (_, at) => peer.get(chunkOf(`${at}`).id, { lengthBytes }));
    const outcomes = Promise.allSettled(all);
    await until(() => asked >= most, 'so many are asked for');
    await sleep(200);
    expect(asked).toBe(most);
    peer.close();
    await outcomes;
  });

  it('is distinguished from one that disconnects, which is noticed at once', async () => {
    const { peer, server } = await hostile(ask => {
      if (ask.type === 'get') void server.close();
    });
    const error: unknown = await peer.get(chunkOf('x').id).catch((failure: unknown) => failure);
    expect(error).toMatchObject(unreachable);
    // It doesn't fail by its deadline.
    expect(error instanceof Error ? String(error.cause) : '').not.toContain('no answer');
  });
});

describe('a chunk server', () => {
  it('serves only peers that it admits, and passes the peer’s credential to that decision', async () => {
    const shown: string[] = [];
    const { peer, store, haveMap, chunkServer } = await served({
      mayServe: (_peer, credential) => {
        shown.push(Buffer.from(credential).toString());
        return false;
      },
    });
    store.put(chunkOf('here'));
    haveMap.put(new ImageHoldings(chunkOf('index').id, 10, true));
    await expect(peer.get(chunkOf('here').id)).rejects.toMatchObject(unreachable);
    expect(peer.isUseless).toBe(true);
    expect(shown).toEqual(['assignment']);
    expect(store.given).toEqual([]);
    await until(() => chunkServer.streams === 0, 'the stream has ended');
  });

  it('answers that it is busy while its load says so, which is no misbehaviour', async () => {
    let isBusy = true;
    const { peer, store, lies } = await served({ isBusy: () => isBusy });
    store.put(chunkOf('here'));
    await expect(peer.get(chunkOf('here').id)).rejects.toMatchObject(unreachable);
    isBusy = false;
    await peer.get(chunkOf('here').id);
    expect(lies).toEqual([]);
  });

  it('sends no damaged chunk', async () => {
    const damaged = new MemoryStore();
    const { peer, lies } = await served({ store: verifying(damaged) });
    const { id } = chunkOf('as it was');
    damaged.put(Chunk.fromPlain(id, Buffer.from('as it is')));
    await expect(peer.get(id)).rejects.toMatchObject(unreachable);
    expect(lies).toEqual([]);
  });

  it('uploads no faster than its rate', async () => {
    const { peer, store } = await served({ pace: new Pacer(512 * 1024) });
    const chunks = noiseChunks(16, 64 * 1024);
    store.put(...chunks);
    const beginMs = performance.now();
    await Promise.all(chunks.map(chunk => peer.get(chunk.id, { lengthBytes: 64 * 1024 })));
    // 1 MiB at 512 KiB a second, less the burst and the last chunk. It is a lower bound, so a busy machine does not matter.
    expect(performance.now() - beginMs).toBeGreaterThan(1500);
  });

  it('bounds the streams of one peer and of all: a peer with two loses one to a peer with none', async () => {
    const { requester, server, chunkServer } = await served({ maxStreams: 3 });
    const others = await Promise.all(Array.from({ length: 3 }, () => nodes.site()));
    const requesters = [requester, requester, requester, ...others];
    const open: { isEnded: boolean }[] = [];
    for (const node of requesters) {
      if (node !== requester) await connect(node, server);
      // Streams beyond the limits are refused.
      const raw = await rawRequester(node, server).catch(() => undefined);
      await raw?.ask(hello).catch(() => {});
      open.push(raw?.state ?? { isEnded: true });
      if (open.length === 3) {
        await until(
          () => open.filter(({ isEnded }) => !isEnded).length === MAX_STREAMS_PER_PEER,
          'two are left',
        );
      }
    }
    await sleep(300);
    expect(chunkServer.streams).toBe(3);
    expect(open.slice(0, 3).filter(({ isEnded }) => !isEnded)).toHaveLength(1);
    expect(open.slice(3).filter(({ isEnded }) => !isEnded)).toHaveLength(2);
  });

  it.each<[string, Ask[]]>([
    ['asks before it says hello', [{ type: 'has', request: 1, id: chunkOf('x').id }]],
    ['says hello twice', [hello, hello]],
    [
      'follows too many images',
      [
        hello,
        ...Array.from(
          { length: MAX_SUBSCRIBED_IMAGES + 1 },
          (_, at): Ask => ({ type: 'subscribe', image: chunkOf(`${at}`).id }),
        ),
      ],
    ],
  ])('ends the stream of a peer that %s', async (_what, asks) => {
    const { requester, server } = await served();
    const raw = await rawRequester(requester, server);
    // Messages after the end can't be sent any more.
    for (const ask of asks) await raw.ask(ask).catch(() => {});
    await until(() => raw.state.isEnded, 'the stream has ended');
    expect(raw.answers).toEqual([]);
  });

  it('bounds the waiting requests, and works on at most two', async () => {
    let reading = 0;
    let most = 0;
    const slow = new MemoryStore();
    slow.put(chunkOf('here'));
    const { requester, server } = await served({
      store: {
        name: 'slow',
        has: async () => true,
        get: async id => {
          most = Math.max(most, (reading += 1));
          await sleep(300);
          reading -= 1;
          return slow.get(id);
        },
      },
    });
    const raw = await rawRequester(requester, server);
    await raw.ask(hello);
    const get = (request: number) => raw.ask({ type: 'get', request, id: chunkOf('here').id });
    for (let request = 1; request <= MAX_WAITING_REQUESTS; request += 1) await get(request);
    await sleep(400);
    expect(raw.state.isEnded).toBe(false);
    for (let request = 1; request <= MAX_WAITING_REQUESTS; request += 1)
      await get(100 + request).catch(() => {});
    await until(() => raw.state.isEnded, 'the stream has ended');
    expect(most).toBe(2);
  });

  it('gives up on a peer that sends requests and does not read, and holds little memory for it', async () => {
    const { requester, server, store, chunkServer } = await served({ writeDeadlineMs: 1000 });
    const chunks = noiseChunks(40, 256 * 1024);
    store.put(...chunks);
    const raw = await rawRequester(requester, server);
    raw.stream.pause();
    await raw.ask(hello);
    for (const [request, { id }] of chunks.entries()) await raw.ask({ type: 'get', request, id });
    await until(() => chunkServer.streams === 0, 'the stream has ended');
    expect(store.given.length).toBeLessThan(20);
  });

  it('ends a stream whose message is longer than any request', async () => {
    const { requester, server, chunkServer } = await served();
    const raw = await rawRequester(requester, server);
    const head = Buffer.alloc(4);
    head.writeUInt32BE(MAX_ASK_BYTES + 1);
    raw.stream.send(head);
    await until(() => raw.state.isEnded, 'the stream has ended');
    expect(chunkServer.streams).toBe(0);
  });
});

describe('the chunks that a peer has', () => {
  it('are announced on request, and as they change', async () => {
    const { peer, haveMap } = await served();
    const image = chunkIdOf(Buffer.from('an index'));
    const holdings = new ImageHoldings(image, 5000, true);
    for (let at = 0; at < 5000; at += 2) holdings.add(at);
    haveMap.put(holdings);
    const held = new Set<number>();
    let isFetching: boolean | undefined;
    await peer.subscribe(image, 5000, (added, fetching) => {
      for (const at of added) held.add(at);
      isFetching = fetching;
    });
    await until(() => held.size === 2500, 'all even ones are known');
    expect(isFetching).toBe(true);
    for (let at = 1; at < 5000; at += 2) holdings.add(at);
    await until(() => held.size === 5000, 'the odd ones are known, too');
    holdings.isFetching = false;
    await until(() => isFetching === false, 'it has ended');
  });

  it('are announced for an image that is added later, and for one that is still empty', async () => {
    const { peer, haveMap } = await served();
    const told: [string, number, boolean][] = [];
    for (const name of ['one', 'two'])
      await peer.subscribe(chunkOf(name).id, 100, (added, fetching) =>
        told.push([name, added.length, fetching]),
      );
    await sleep(200);
    expect(told).toEqual([]);
    haveMap.put(new ImageHoldings(chunkOf('two').id, 100, true));
    await until(() => told.length > 0, 'something is told');
    expect(told).toEqual([['two', 0, true]]);
  });
});
