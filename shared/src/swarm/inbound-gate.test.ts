import { afterEach, describe, expect, it } from 'vitest';
import { ChunkServer } from './chunks/chunk-server.ts';
import { HaveMap } from './chunks/holdings.ts';
import { PeerStore } from './chunks/peer-store.ts';
import type { SwarmNode } from './node.ts';
import { MemoryStore, noiseChunks } from './testing/memory-store.ts';
import { connect, Nodes, until } from './testing/nodes.ts';
import { EIGHT_ADDRESSES, Strangers } from './testing/strangers.ts';

const nodes = new Nodes();
let strangers: Strangers;
afterEach(async () => {
  await strangers.close();
  await nodes.close();
});

const ADDRESSES = [
  ['one address', EIGHT_ADDRESSES.slice(0, 1)],
  ['eight addresses', EIGHT_ADDRESSES],
] as const;

const portOf = (node: SwarmNode): number => Number(/\/tcp\/(\d+)\//.exec(node.addresses[0] ?? '')?.[1]);

describe.each(ADDRESSES)('strangers on %s', (_, addresses) => {
  it.each(['site', 'fleet'] as const)(
    'keep no member out of the network of a %s with silent sockets',
    async kind => {
      strangers = new Strangers(addresses);
      const [node, friend, late] = await Promise.all(Array.from({ length: 3 }, () => nodes[kind]()));
      if (!node || !friend || !late) throw new Error('unreachable');
      await connect(friend, node);
      await strangers.beSilent(portOf(node), 200);
      await connect(late, node);
      await until(() => node.isConnected(friend.id) && node.isConnected(late.id), 'both are connected');
      expect(node.gate.dropped).toBeGreaterThan(0);
      expect(strangers.open).toBeGreaterThan(0);
    },
  );

  it('keep no member from chunks with connections of their own keys and streams without a hello', async () => {
    strangers = new Strangers(addresses);
    const [server, member, late] = [await nodes.site(16), await nodes.site(), await nodes.site()];
    const store = new MemoryStore();
    const ids = new Set([member.id, late.id]);
    const mayServe = (id: string): boolean => ids.has(id);
    const chunkServer = new ChunkServer({ node: server, store, haveMap: new HaveMap(), mayServe });
    await chunkServer.start();
    const [first, second] = noiseChunks(2, 64 * 1024);
    if (!first || !second) throw new Error('unreachable');
    store.put(first, second);
    const ask = async (node: SwarmNode, { id }: typeof first): Promise<void> => {
      const peer = new PeerStore({
        node,
        peer: server.id,
        credential: Buffer.from('x'),
        onMisbehaviour: () => {},
      });
      await peer.get(id, { lengthBytes: 64 * 1024 });
    };
    await connect(member, server);
    await ask(member, first);
    await strangers.openStreams(server.addresses[0] ?? '', 48);
    await connect(late, server);
    await ask(late, second);
    await ask(member, second);
    // Both are known members now, so new connections compete for the strangers' places only.
    await strangers.connectWithKeys(server.addresses[0] ?? '', 24);
    expect(server.isConnected(member.id) && server.isConnected(late.id)).toBe(true);
    await until(() => server.connected.length <= 2 + 8, 'strangers have their places, and no more');
    await ask(late, first);
    await chunkServer.stop();
  });
});

it('keep no named peer out, even if they share its address', async () => {
  strangers = new Strangers(['127.0.0.1']);
  const [node, named] = [await nodes.site(4), await nodes.site()];
  node.gate.name(named.id, named.addresses);
  await connect(named, node);
  await strangers.connectWithKeys(node.addresses[0] ?? '', 12);
  expect(node.isConnected(named.id)).toBe(true);
  await until(() => node.connected.length <= 1 + 2, 'strangers have their places, and no more');
});
