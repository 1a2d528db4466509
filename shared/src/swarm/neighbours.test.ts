import { afterEach, describe, expect, it } from 'vitest';
import { MAX_NEIGHBOURS, Neighbours } from './neighbours.ts';
import { Nodes, until } from './testing/nodes.ts';

const FAR_TOO_LONG_MS = 600_000;
const nodes = new Nodes();
afterEach(() => nodes.close());

describe('a machine that has nothing to fetch', () => {
  it('is connected to a few of its site, however many are named', async () => {
    const node = await nodes.site();
    const neighbours = new Neighbours(node);
    const others = await Promise.all(Array.from({ length: MAX_NEIGHBOURS + 2 }, () => nodes.site()));
    for (const { id, addresses } of [node, ...others]) {
      node.gate.name(id, addresses);
      neighbours.addPeer(id, addresses);
    }
    await until(() => node.connected.length === MAX_NEIGHBOURS, 'it has as many as it may');
    for (const { id, addresses } of others) neighbours.addPeer(id, addresses);
    await neighbours.close();
    expect(node.connected).toHaveLength(MAX_NEIGHBOURS);
  });

  it('has one connection with another, even if both learn of each other at one time', async () => {
    const [one, two] = [await nodes.site(), await nodes.site()];
    // On a busy machine the other's handshake takes longer than devices yield.
    const both = [one, two].map(node => new Neighbours(node, FAR_TOO_LONG_MS));
    both[0]?.addPeer(two.id, two.addresses);
    both[1]?.addPeer(one.id, one.addresses);
    await until(() => one.connected.length + two.connected.length === 2, 'they are connected');
    await Promise.all(both.map(neighbours => neighbours.close()));
    expect(one.libp2p.getConnections()).toHaveLength(1);
    expect(two.libp2p.getConnections()).toHaveLength(1);
  });

  it('gives up on an absent machine, and connects when that is named again', async () => {
    const [node, other] = [await nodes.site(), await nodes.site()];
    const neighbours = new Neighbours(node);
    neighbours.addPeer(other.id, [`/ip4/127.0.0.1/tcp/1/p2p/${other.id}`]);
    await until(() => {
      neighbours.addPeer(other.id, other.addresses);
      return node.isConnected(other.id);
    }, 'it has met it');
    await neighbours.close();
    expect(node.connected).toEqual([other.id]);
  });
});
