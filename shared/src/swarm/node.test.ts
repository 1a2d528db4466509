import { once } from 'node:events';
import { createServer } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { fleetKeyToText, generateFleetKey, parseFleetKey } from '../fleet/index.ts';
import { connect, newIdentity, Nodes, until } from './testing/nodes.ts';
import { createFleetNode, createSiteNode } from './node.ts';

const nodes = new Nodes();
afterEach(() => nodes.close());

const FLEET = 50;

describe('fifty gateways behind one address', () => {
  it('all receive a message that one of them publishes, each once', async () => {
    const fleet = await Promise.all(Array.from({ length: FLEET }, () => nodes.fleet()));
    const heard = new Map<string, number>();
    for (const { id, gossip } of fleet) {
      gossip.onAnnouncement(() => {
        heard.set(id, (heard.get(id) ?? 0) + 1);
        return 'accept';
      });
    }
    // Each node knows three others: the next, and two further away.
    for (const [at, node] of fleet.entries()) {
      for (const step of [1, 7, 19]) {
        const other = fleet[(at + step) % FLEET];
        if (other) await connect(node, other);
      }
    }
    await until(
      () => fleet.every(({ gossip }) => gossip.neighbours.filter(({ isInMesh }) => isInMesh).length >= 2),
      'everyone has neighbours',
    );
    const announcement = { rootVersion: 1, timestamp: Buffer.from('{}'), files: new Map() };
    expect(await fleet[0]?.gossip.announce(announcement)).toBeGreaterThan(0);
    await until(() => heard.size === FLEET - 1, 'all have heard of it');
    expect([...heard.values()].every(times => times === 1)).toBe(true);
    const scores = fleet.flatMap(({ gossip }) => gossip.neighbours.map(({ score }) => score));
    expect(Math.min(...scores)).toBeGreaterThanOrEqual(0);
  });
});

describe('gateways that are connected to a central one only', () => {
  it('all receive what one of them publishes, though the mesh has no room for most of them', async () => {
    const middle = await nodes.fleet();
    const leaves = await Promise.all(Array.from({ length: 16 }, () => nodes.fleet()));
    middle.gossip.onAnnouncement(() => 'accept');
    const heard = new Set<string>();
    for (const { id, gossip } of leaves)
      gossip.onAnnouncement(() => {
        heard.add(id);
        return 'accept';
      });
    for (const leaf of leaves) await connect(leaf, middle);
    await until(
      () => [middle, ...leaves].every(({ gossip }) => gossip.neighbours.length > 0),
      'everyone has neighbours',
    );
    const announcement = { rootVersion: 1, timestamp: Buffer.from('{}'), files: new Map() };
    expect(await leaves[0]?.gossip.announce(announcement)).toBe(1);
    await until(() => heard.size === leaves.length - 1, 'all others have heard of it');
  });
});

describe('devices on one LAN', () => {
  it('find each other by multicast DNS, without configuration', async () => {
    const listen = ['/ip4/0.0.0.0/tcp/0'];
    const open = (isHidden: boolean) =>
      createSiteNode({ identity: newIdentity(), listen, isDiscovering: true, isHidden });
    const [one, two, hidden] = [await open(false), await open(false), await open(true)];
    try {
      const hasFound = (node: typeof one, other: typeof one) => node.found.some(({ id }) => id === other.id);
      await until(() => hasFound(one, two) && hasFound(two, one), 'they have found each other');
      await until(() => hasFound(hidden, one) && hasFound(hidden, two), 'one that hides has found them');
      expect(hasFound(one, hidden) || hasFound(two, hidden)).toBe(false);
      const [address = ''] = one.found.find(({ id }) => id === two.id)?.addresses ?? [];
      expect(await one.dial(address)).toBe(two.id);
    } finally {
      await Promise.all([one.close(), two.close(), hidden.close()]);
    }
  });
});

describe("the fleet's network", () => {
  it("admits no node without the fleet's key", async () => {
    const heard: unknown[] = [];
    const onForeignKey = (trouble: unknown): number => heard.push(trouble);
    const member = await nodes.fleet(undefined, { onForeignKey });
    const other = await nodes.fleet(generateFleetKey());
    const without = await nodes.site();
    const tries = [other, without].flatMap(stranger => [
      connect(stranger, member),
      connect(member, stranger),
    ]);
    for (const outcome of await Promise.allSettled(tries))
      expect(outcome).toMatchObject({ reason: { kind: 'unreachable' } });
    expect(member.connected).toEqual([]);
    // In either direction it is said that the key is another one, or may be.
    for (const outcome of await Promise.allSettled([connect(other, member), connect(member, other)]))
      expect(outcome).toMatchObject({
        reason: {
          message: expect.stringContaining('speaks with another fleet key'),
          hint: expect.stringContaining('--fleet-key-file'),
        },
      });
    // The one that was dialled hears of it, too, from its own side.
    expect(heard.length).toBeGreaterThan(0);
    for (const trouble of heard)
      expect(trouble).toMatchObject({
        code: 'SITECAST_FLEET_KEY_DIFFERS',
        message: expect.stringContaining('127.0.0.1 has connected'),
        hint: expect.stringContaining('--fleet-key-file'),
      });
    const another = await nodes.fleet();
    expect(await connect(another, member)).toBe(member.id);
  });

  it('says which address it cannot listen on, and why', async () => {
    const fleetKey = generateFleetKey();
    const [taken = ''] = (await nodes.fleet()).addresses.map(address => address.replace(/\/p2p\/.*/, ''));
    for (const [address, why] of [
      [taken, 'EADDRINUSE'],
      ['/ip4/192.0.2.9/tcp/7402', 'EADDRNOTAVAIL'],
    ] as const)
      await expect(
        createFleetNode({ identity: newIdentity(), listen: [address], fleetKey }),
      ).rejects.toMatchObject({
        code: 'SITECAST_PEER_LISTEN',
        message: expect.stringContaining(`${address} (${why})`),
      });
  });

  it('has its key as text', () => {
    const key = generateFleetKey();
    expect(Buffer.from(parseFleetKey(` ${fleetKeyToText(key)}\n`))).toEqual(Buffer.from(key));
    for (const text of ['', 'ab', `${'0'.repeat(63)}g`, '0'.repeat(66)])
      expect(() => parseFleetKey(text)).toThrow(
        expect.objectContaining({ code: 'SITECAST_FLEET_KEY_INVALID' }),
      );
  });
});

describe('a node', () => {
  it('listens on a place that was taken as soon as it is free, and dials others until then', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    const address = taken.address();
    const place = `/ip4/127.0.0.1/tcp/${typeof address === 'object' ? address?.port : ''}`;
    const node = await createSiteNode({ identity: newIdentity(), listen: [] });
    const other = await nodes.site();
    const stop = new AbortController();
    try {
      const listening = node.listenWhenFree(place, stop.signal);
      expect(await connect(node, other)).toBe(other.id);
      await node.hangUp(other.id);
      expect(node.addresses).toEqual([]);
      taken.close();
      expect(await listening).toBe(true);
      expect(node.addresses).toEqual([`${place}/p2p/${node.id}`]);
      expect(await connect(other, node)).toBe(node.id);
      stop.abort();
      expect(await node.listenWhenFree(place, stop.signal)).toBe(false);
    } finally {
      taken.close();
      await node.close();
    }
  });

  it('has the id of its identity', async () => {
    const identity = newIdentity();
    const node = await createSiteNode({ identity, listen: [] });
    expect(node.id).toBe(identity.id);
    await node.close();
  });

  it('refuses a peer whose id differs from that in the address', async () => {
    const [requester, other] = [await nodes.site(), await nodes.site()];
    const [address = ''] = other.addresses;
    await expect(requester.dial(address.replace(other.id, newIdentity().id))).rejects.toMatchObject({
      code: 'SITECAST_PEER_UNREACHABLE',
      message: expect.stringContaining('who answers there has another id'),
    });
    for (const wrong of ['', '/ip4/127.0.0.1/tcp/1', 'http://example.org'])
      await expect(requester.dial(wrong)).rejects.toMatchObject({ code: 'SITECAST_PEER_ADDRESS' });
    expect(await requester.dial(address)).toBe(other.id);
  });
});
